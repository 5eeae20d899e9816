package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/visa"
)

// service is a program in a cgroup that is not raypherd's, as a unit of systemd.
type service struct {
	t     *testing.T
	unit  string
	path  string // of the cgroup
	shell *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// serve makes the cgroup of a unit, below its slice, and starts a shell in it that does what it is told.
func (p *pair) serve(change ...func(*exec.Cmd)) *service {
	p.t.Helper()
	mounts, err := cgroup.FindMounts()
	if err != nil {
		p.t.Fatal(err)
	}
	name := "unit-" + strings.TrimPrefix(filepath.Base(p.dir), "raypher-test")
	slice := filepath.Join(mounts.Unified, name+".slice")
	s := &service{t: p.t, unit: name, path: filepath.Join(slice, name+".service")}
	if err := os.MkdirAll(s.path, 0o755); err != nil {
		p.t.Fatal(err)
	}
	folder, err := os.Open(s.path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer folder.Close()
	s.shell = exec.Command("bash", "-c", `while read line; do eval "$line" 2>&1; done`)
	s.shell.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
	s.shell.Env = append(os.Environ(), "RAYPHER_TEST_PART=agent")
	for _, c := range change {
		c(s.shell)
	}
	if s.in, err = s.shell.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	out, err := s.shell.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	s.lines = bufio.NewScanner(out)
	if err := s.shell.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		s.shell.Process.Kill()
		s.shell.Wait()
		for range 100 {
			if unix.Rmdir(s.path) != unix.EBUSY && unix.Rmdir(slice) != unix.EBUSY {
				return
			}
			pause()
		}
		p.t.Errorf("%s is left", s.path)
	})
	return s
}

// reaches says whether the service can connect to an address.
func (s *service) reaches(address string) bool {
	s.t.Helper()
	host, port, _ := strings.Cut(address, ":")
	return s.says(fmt.Sprintf("if (exec 3<>/dev/tcp/%s/%s) 2>/dev/null; then echo reached; else echo refused; fi", host, port)) == "reached"
}

// says has the shell do something that prints one line.
func (s *service) says(line string) string {
	s.t.Helper()
	fmt.Fprintln(s.in, line)
	if !s.lines.Scan() {
		s.t.Fatal("the service has ended")
	}
	return s.lines.Text()
}

// cli runs the CLI and returns what it printed.
func (p *pair) cli(args ...string) (string, error) {
	p.t.Helper()
	cmd, out := p.raypher(args...)
	err := cmd.Wait()
	return out.String(), err
}

// TestAttach: an operator puts a service that runs already under a policy. Its visa names the cgroup and is renewed; it outlives raypherd;
// detached, it is as before, which the journal says.
func TestAttach(t *testing.T) {
	p := newPair(t, "--backend", "broker").shortVisas().start()
	granted, other := listener(t), listener(t)
	policy := p.write("policy.yaml", reject(granted))
	s := p.serve()
	if !s.reaches(other) {
		t.Fatal("the service reaches nothing before it is attached")
	}
	out, err := p.cli("attach", "--unit", s.unit, "--network-only", "--policy", policy)
	if err != nil {
		t.Fatal(err, out)
	}
	for _, want := range []string{"attached /" + s.unit + ".slice/" + s.unit + ".service", "not held:", "only the network is held", "no Landlock floor", "seccomp", "capabilities are kept"} {
		if !strings.Contains(out, want) {
			t.Errorf("attach says %s, which lacks %q", out, want)
		}
	}
	if !s.reaches(granted) || s.reaches(other) {
		t.Error("the service does not reach what is granted, or reaches something else")
	}
	a := p.list()[0]
	if a.State != "attached" || a.Backend != "network" || a.Name != s.unit || a.Program != "/usr/bin/bash" || len(a.Uncovered) == 0 {
		t.Errorf("it is listed as %v", a)
	}
	if out, err := p.cli("attach", "--cgroup", s.path, "--network-only", "--policy", policy); err == nil || !strings.Contains(out, "under the guard already") {
		t.Errorf("attached twice: %s", out)
	}
	p.eventually("its visa is renewed", func() bool { return p.list()[0].ExpiresUnix > a.ExpiresUnix })

	p.end(syscall.SIGKILL)
	if s.reaches(other) {
		t.Error("without raypherd the service reaches the host")
	}
	p.start()
	if list := p.list(); len(list) != 1 || list[0].AgentId != a.AgentId || list[0].State != "attached" {
		t.Fatalf("after a restart there is %v", list)
	}
	if !s.reaches(granted) || s.reaches(other) {
		t.Error("after a restart the service does not reach what is granted, or reaches something else")
	}
	p.end(syscall.SIGTERM)
	if s.reaches(other) {
		t.Error("raypherd ended, and the service reaches the host")
	}
	p.start()
	before := p.list()[0].ExpiresUnix
	p.eventually("its visa is renewed again", func() bool { return p.list()[0].ExpiresUnix > before })

	if out, err := p.cli("detach", s.unit); err != nil || out != "" {
		t.Fatal(err, out)
	}
	if !s.reaches(other) || len(p.list()) != 0 {
		t.Errorf("detached, the service does not reach the host, or is listed: %v", p.list())
	}
	p.eventually("the journal has the refusal, the detachment and the count", func() bool {
		var refused, detached, counted bool
		for _, v := range p.evidence() {
			refused = refused || v.AgentID == a.AgentId && v.Decision == "block" && v.Target == other+"/tcp"
			detached = detached || v.AgentID == a.AgentId && v.Operation == "detach" && v.Target == a.Attached && v.Rule == "by user 0"
			counted = counted || v.AgentID == a.AgentId && v.Operation == "count" && !strings.Contains(v.Target, "warden") // it has none
		}
		return refused && detached && counted
	})
	if out, err := p.cli("attach", "--pid", fmt.Sprint(s.shell.Process.Pid), "--network-only", "--json", "--policy", policy); err != nil || !json.Valid([]byte(out)) {
		t.Fatalf("attached again: %v, %s", err, out)
	}
	s.in.Close()
	p.eventually("it ends with its last process", func() bool { return len(p.list()) == 0 })
	if _, err := os.Stat(s.path); err != nil {
		t.Errorf("its cgroup was removed: %v", err)
	}
}

// TestAttachedVisa: the visa of an attached cgroup names it, and nobody has its key.
func TestAttachedVisa(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	s := p.serve()
	reply, err := p.operator().Attach(context.Background(), &parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte(reject() + "filesystem: {read: [/usr/**]}\n"), Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := visa.Read(reply.Visa)
	if err != nil {
		t.Fatal(err)
	}
	if got := claims.Asserted; got.Cgroup != "/"+s.unit+".slice/"+s.unit+".service" || got.Backend != "network" || got.PID != int32(s.shell.Process.Pid) || claims.Subject != "spiffe://raypher.local/ns/default/agent/web" {
		t.Errorf("claims %+v of %s", got, claims.Subject)
	}
	p.eventually("a visa of the network alone says so", func() bool {
		a := p.list()
		return len(a) == 1 && a[0].Backend == "network"
	})
}

// TestAttachRefuses: what cannot be attached, and by whom not, is said in words.
func TestAttachRefuses(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	s := p.serve()
	inside := p.run(plain, "read line")
	inside.grant()
	plainPolicy := reject()
	mounts, err := cgroup.FindMounts()
	if err != nil {
		t.Fatal(err)
	}
	ours := p.cgroupPath()
	for name, tt := range map[string]struct {
		r    *parentv1.AttachRequest
		want string
	}{
		"the root":                 {&parentv1.AttachRequest{Cgroup: mounts.Unified, NetworkOnly: true}, "root of the hierarchy"},
		"the caller and raypherd":  {&parentv1.AttachRequest{Pid: int32(p.daemon.Process.Pid), NetworkOnly: true}, "root of the hierarchy"},
		"agents":                   {&parentv1.AttachRequest{Cgroup: ours, NetworkOnly: true}, "under the guard already"},
		"an agent":                 {&parentv1.AttachRequest{Pid: int32(inside.runner), NetworkOnly: true}, "under the guard already"},
		"nothing":                  {&parentv1.AttachRequest{NetworkOnly: true}, "name one"},
		"two things":               {&parentv1.AttachRequest{Cgroup: s.path, Unit: s.unit, NetworkOnly: true}, "name one"},
		"no such unit":             {&parentv1.AttachRequest{Unit: "no-such-unit-" + s.unit, NetworkOnly: true}, "is it running"},
		"an empty cgroup":          {&parentv1.AttachRequest{Cgroup: ours + ".wardens/..", NetworkOnly: true}, "root of the hierarchy"},
		"all of it by the broker":  {&parentv1.AttachRequest{Cgroup: s.path}, "--network-only"},
		"questions to a person":    {&parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte(plainPolicy + "  require_approval: [example.com]\n")}, "network.require_approval"},
		"system calls":             {&parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte("syscalls: {kill: deny}\n")}, "syscalls"},
		"limits":                   {&parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte("resources: {max_processes: 5}\n")}, "resources"},
		"a policy that is no such": {&parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, PolicyPath: "p.yaml", Policy: []byte("network: 5\n")}, "p.yaml:1:"},
	} {
		if tt.r.Policy == nil {
			tt.r.Policy = []byte(plainPolicy)
		}
		if _, err := p.operator().Attach(context.Background(), tt.r); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", name, err, tt.want)
		}
	}
	if len(p.list()) != 1 || !s.reaches(listener(t)) {
		t.Error("what was refused has changed something")
	}
	// Of several at once one attaches. What an attached program asks of raypherd is asked by an agent.
	answers, operator := make(chan error, 8), p.operator()
	for range cap(answers) {
		go func() {
			_, err := operator.Attach(context.Background(), &parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte("mode: audit\nnetwork: {default_action: drop}\n")})
			answers <- err
		}()
	}
	attached := 0
	for range cap(answers) {
		if err := <-answers; err == nil {
			attached++
		} else if !strings.Contains(err.Error(), "under the guard already") {
			t.Error(err)
		}
	}
	if attached != 1 {
		t.Fatalf("%d of %d attached the same cgroup at once", attached, cap(answers))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.says(self + " " + p.paths.Socket + " status"); !strings.Contains(got, "an agent cannot operate raypherd") {
		t.Errorf("an attached program operates raypherd: %s", got)
	}
	if got := s.says(self + " " + p.paths.Socket + " launch"); !strings.Contains(got, "an agent cannot start another one") {
		t.Errorf("an attached program launches an agent: %s", got)
	}
}

// TestMembersAttachTheirOwn: who is in the group of operators attaches what runs as themselves, where nobody else's comes, and detaches
// nothing of others.
func TestMembersAttachTheirOwn(t *testing.T) {
	const group, gid, uid = "nogroup", 65534, 65533
	p := newPair(t, "--backend", "broker", "--group", group).start()
	policy := p.write("policy.yaml", reject())
	member := func(args ...string) (string, error) {
		t.Helper()
		cmd := exec.Command(filepath.Join(p.bin, "raypher"), args...)
		cmd.Env = append(os.Environ(), "RAYPHER_RUN_DIR="+p.paths.Run)
		cmd.Dir, cmd.SysProcAttr = "/", credential(uid, gid)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	s := p.serve(func(cmd *exec.Cmd) { cmd.SysProcAttr.Credential = credential(uid, gid).Credential })
	refused := func(cgroup, want string) {
		t.Helper()
		if out, err := member("attach", "--cgroup", cgroup, "--network-only", "--policy", policy); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %s, want %q in it", cgroup, err, out, want)
		}
	}
	refused(filepath.Dir(s.path), "processes of others may come there")
	folder, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	for want, args := range map[string][]string{
		"is user 0's":         {"sleep", "1000"},
		"its user ids differ": {"setpriv", "--ruid=65533", "--euid=0", "sleep", "1000"},
	} {
		other := exec.Command(args[0], args[1:]...)
		other.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		p.eventually("the program is what it becomes", func() bool {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", other.Process.Pid))
			return string(name) == "sleep\n"
		})
		refused(s.path, want)
		other.Process.Kill()
		other.Wait()
	}
	if out, err := member("attach", "--cgroup", s.path, "--network-only", "--policy", policy); err != nil {
		t.Fatal(err, out)
	}
	if s.reaches(listener(t)) {
		t.Error("attached by a member, it reaches the host")
	}
	if out, err := member("detach", s.unit); err != nil {
		t.Fatal(err, out)
	}
	if out, err := p.cli("attach", "--cgroup", s.path, "--network-only", "--policy", policy); err != nil {
		t.Fatal(err, out)
	}
	for what, args := range map[string][]string{
		"detaches":             {"detach", s.unit},
		"ends":                 {"agents", "stop", s.unit},
		"gives other rules to": {"policy", "apply", "--agent", s.unit, policy},
	} {
		if out, err := member(args...); err == nil || !strings.Contains(out, "was attached by user 0") {
			t.Errorf("a member %s what root attached: %v, %s", what, err, out)
		}
	}
	if err := os.Chown(filepath.Join(filepath.Dir(s.path), "cgroup.procs"), uid, -1); err != nil {
		t.Fatal(err)
	}
	refused(filepath.Dir(s.path), "under the guard already")
}

// TestAttachedCloses: its visa is not renewed, so the kernel closes its network; it is neither frozen nor killed.
func TestAttachedCloses(t *testing.T) {
	p := newPair(t, "--backend", "broker").shortVisas().ownEnclave().start()
	granted := listener(t)
	s := p.serve()
	if _, err := p.operator().Attach(context.Background(), &parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte(reject(granted))}); err != nil {
		t.Fatal(err)
	}
	if !s.reaches(granted) {
		t.Fatal("what is granted is not reached")
	}
	p.enclave.Process.Kill()
	p.enclave.Wait()
	p.eventually("its network is closed", func() bool { return !s.reaches(granted) })
	if got := s.says("echo alive"); got != "alive" {
		t.Errorf("it says %q", got)
	}
	p.eventually("it is listed as closed", func() bool { return p.list()[0].State == "closed" })
}

// TestAttachedRecordIsForged: what an attached cgroup may do is what the enclave signed. One whose record says otherwise stays closed until
// it is detached.
func TestAttachedRecordIsForged(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	granted, other := listener(t), listener(t)
	s := p.serve()
	reply, err := p.operator().Attach(context.Background(), &parentv1.AttachRequest{Cgroup: s.path, NetworkOnly: true, Policy: []byte(reject(granted))})
	if err != nil {
		t.Fatal(err)
	}
	p.end(syscall.SIGKILL)
	record := filepath.Join(p.paths.Records, reply.Agent.AgentId+".json")
	content, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	wider := strings.Replace(string(content), `"Attached":"/`, `"Attached":"//`, 1)
	if wider == string(content) {
		t.Fatalf("record %s", content)
	}
	if err := os.WriteFile(record, []byte(wider), 0o600); err != nil {
		t.Fatal(err)
	}
	p.start()
	if list := p.list(); len(list) != 0 {
		t.Errorf("it goes on: %v", list)
	}
	if s.reaches(granted) || s.reaches(other) {
		t.Error("it reaches something")
	}
	if out, err := p.cli("detach", "--cgroup", s.path); err != nil {
		t.Fatal(err, out)
	}
	if !s.reaches(other) {
		t.Error("detached, it does not reach the host")
	}
}
