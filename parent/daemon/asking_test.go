package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// asked has the warden's own process ask something.
func (w *warden) asked(q ...string) string {
	w.pair.t.Helper()
	before := w.count("answer")
	w.order(order{Ask: q})
	w.pair.eventually("an answer to "+strings.Join(q, " "), func() bool { return w.count("answer") > before })
	return w.heard("answer", "").Error
}

func (w *warden) count(kind string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.said {
		if s.Message == kind {
			n++
		}
	}
	return n
}

// listener is a host on loopback that an agent may or may not reach.
func listener(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// reject refuses visibly, so that tests need not wait for silence.
func reject(egress ...string) string {
	policy := "mode: enforce\nnetwork:\n  default_action: drop\n  on_deny: reject\n"
	if len(egress) > 0 {
		policy += fmt.Sprintf("  egress: [%q]\n", strings.Join(egress, `", "`))
		policy = strings.ReplaceAll(policy, `\"`, `"`)
	}
	return policy
}

func TestWhoIsCalling(t *testing.T) {
	p := newPair(t).start()
	script := fmt.Sprintf(`"$ASK" %[1]s whoami; "$ASK" %[2]s status; "$ASK" %[2]s launch; "$ASK" %[1]s status; echo done; sleep 1000`, p.address(), p.paths.Socket)
	w := p.run(plain, script)
	other := p.run(plain, fmt.Sprintf(`"$ASK" %s whoami; sleep 1000`, p.address()))
	id := w.grant().AgentID

	if line := w.printed("i am", "error"); line != "i am "+id {
		t.Errorf("the agent over TCP: %s, want its id %s", line, id)
	}
	if line := other.printed("i am", "error"); line != "i am "+other.grant().AgentID {
		t.Errorf("the other agent over TCP: %s", line)
	}
	w.printed("done")
	w.mu.Lock()
	for _, s := range w.said {
		if strings.Contains(s.Agent, "operated") || strings.Contains(s.Agent, "launched") {
			t.Errorf("the agent %s", s.Agent)
		}
	}
	w.mu.Unlock()

	// What the warden connects on the agent's behalf has the warden's credentials.
	if answer := w.asked(p.paths.AgentSocket, "whoami"); answer != "i am "+id {
		t.Errorf("the warden on the agent's socket: %s", answer)
	}
	for _, q := range []string{"status", "launch"} {
		if answer := w.asked(p.paths.Socket, q); !strings.Contains(answer, "not allowed") || !strings.Contains(answer, "agent") {
			t.Errorf("the warden asks %s of raypherd's socket: %s", q, answer)
		}
	}

	// Outsiders.
	_, err := ask([]string{p.address(), "whoami"})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "serves agents only") {
		t.Errorf("an outsider over TCP: %v", err)
	}
	_, err = ask([]string{p.paths.AgentSocket, "whoami"})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "agents of this raypherd only") {
		t.Errorf("an outsider on the agents' socket: %v", err)
	}
	if _, err := ask([]string{p.paths.Socket, "whoami"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("the Agent service on raypherd's socket: %v", err)
	}
	reply, err := p.operator().Status(context.Background(), &parentv1.StatusRequest{})
	if err != nil || reply.Agents != 2 || !reply.EnclaveReachable || reply.Tier != "software" {
		t.Errorf("status %+v, %v", reply, err)
	}
}

func TestTheGuardFollowsAnIntent(t *testing.T) {
	p := newPair(t).start()
	one, two := listener(t), listener(t)
	first, second := reject(one), reject(two)
	ask := func(q string) string { return fmt.Sprintf(`"$ASK" %s; `, q) }
	script := ask(one+" connect") + ask(two+" connect") +
		ask(p.address()+" narrow '"+first+"'") + ask(one+" connect") + ask(two+" connect") +
		ask(p.address()+" narrow '"+reject("192.0.2.1:1")+"'") + // beyond: refused, nothing changes
		ask(p.address()+" visa '"+second+"'") + ask(two+" connect") + // a visa alone moves nothing
		ask(p.address()+" narrow ''") + ask(two+" connect") + "echo done; sleep 1000"
	w := p.run(reject(one, two), script)
	w.printed("done")
	w.mu.Lock()
	var lines []string
	for _, s := range w.said {
		if s.Agent != "" {
			lines = append(lines, s.Agent)
		}
	}
	w.mu.Unlock()
	want := []string{
		"connected", "connected",
		"permit", "connected", "error",
		"beyond", "permit", "error",
		"permit", "connected", "done",
	}
	if len(lines) != len(want) {
		t.Fatalf("the agent printed\n%s\nwant %d lines", strings.Join(lines, "\n"), len(want))
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) {
			t.Errorf("line %d: %s, want %s", i+1, lines[i], want[i])
		}
	}
	if s := w.heard("narrowed", ""); s == nil || w.count("narrowed") != 2 {
		t.Errorf("the warden was told %d times of the guard following", w.count("narrowed"))
	}
	if !strings.Contains(lines[5], "192.0.2.1") {
		t.Errorf("the refusal does not name what is beyond: %s", lines[5])
	}
}

func TestVerdictsBecomeEvidence(t *testing.T) {
	p := newPair(t).start()
	host := listener(t)
	stream, err := p.operator().Events(t.Context(), &parentv1.EventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	w := p.run(reject(), fmt.Sprintf(`"$ASK" %s connect; echo done; sleep 1000`, host))
	for range 5 {
		w.order(order{Report: reported("/etc/shadow")})
	}
	w.order(order{Report: []byte("no verdict")})
	w.printed("done")

	seen := map[string]uint32{}
	for seen["/etc/shadow"] == 0 || seen[host+"/tcp"] == 0 {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		v := decoded(t, e.Verdict)
		if v.Operation == "lost" {
			continue // the verdict that cannot be read; it is looked for below
		}
		seen[v.Target] += v.Count
		if v.AgentID != w.grant().AgentID || v.Subject != w.grant().Subject || len(v.VisaID) == 0 {
			t.Errorf("an event of another agent: %+v", v)
		}
		if len(e.Epoch) == 0 {
			t.Error("an event that is not in the journal")
		}
	}
	p.eventually("everything is evidence", func() bool {
		files, lost := 0, 0
		for _, v := range p.evidence() {
			switch {
			case v.Target == "/etc/shadow" && v.Layer == "broker":
				files += int(v.Count)
			case v.Operation == "lost":
				lost += int(v.Count)
			}
		}
		return files == 5 && lost == 1
	})
	if s := w.heard("seen", ""); s == nil || decoded(t, s.Verdict).Target != host+"/tcp" {
		t.Errorf("the warden was not shown what the kernel refused: %+v", s)
	}
	if list := p.list(); len(list) != 1 || list[0].Blocked < 6 {
		t.Errorf("agents %+v, want at least 6 blocked actions", list)
	}
	item, err := p.operator().ListEvidence(t.Context(), &parentv1.ListEvidenceRequest{AgentId: w.grant().AgentID})
	if err != nil {
		t.Fatal(err)
	}
	one, err := item.Recv()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := p.operator().ExportEvidence(t.Context(), &parentv1.ExportEvidenceRequest{Epoch: one.Epoch, Index: one.Index})
	if err != nil || len(bundle.Bundle) == 0 {
		t.Errorf("export: %v", err)
	}
	_, err = p.operator().ExportEvidence(t.Context(), &parentv1.ExportEvidenceRequest{Epoch: one.Epoch, Index: 1 << 40})
	if status.Code(err) != codes.NotFound {
		t.Errorf("export of what is not there: %v", err)
	}
}

func TestOnViolationKill(t *testing.T) {
	p := newPair(t).start()
	w := p.run("mode: enforce\non_violation: kill\nnetwork:\n  on_deny: reject\n", fmt.Sprintf(`"$ASK" %s connect; echo survived; sleep 1000`, listener(t)))
	p.eventually("the agent is killed", func() bool { return len(p.list()) == 0 })
	if s := w.heard("end", "on_violation"); s == nil {
		t.Errorf("the warden was not told why: %+v", w.said)
	}
}

func TestUsers(t *testing.T) {
	if _, err := exec.LookPath("getent"); err != nil {
		t.Skip("looking for a group to use needs getent")
	}
	const group, member, uid = "nogroup", 65534, 65533
	p := newPair(t, "--group", group).start()
	as := func(gid uint32) func(*order, *exec.Cmd) {
		return func(o *order, cmd *exec.Cmd) {
			o.Launch.Home = "/nonexistent"
			cmd.SysProcAttr = credential(uid, gid)
		}
	}
	w := p.run(plain, "echo inside; sleep 1000", as(member))
	w.printed("inside")
	if list := p.list(); len(list) != 1 || list[0].Uid != uid {
		t.Errorf("agents %+v", list)
	}
	if words := p.refused(plain, as(uid)); !strings.Contains(words, "permission denied") {
		t.Errorf("a user who is not in the group: %s", words)
	}
	// A member cannot make an agent of another user's process.
	words := p.refused(plain, as(member), func(o *order, _ *exec.Cmd) { o.Launch.RunnerPID = int32(p.daemon.Process.Pid) })
	if !strings.Contains(words, "runs as user 0") {
		t.Errorf("a member with root's process: %s", words)
	}
	// Nor is a member told the hash of what it may not execute: whoever guesses what stands there would know.
	secret := filepath.Join(p.dir, "secret")
	for mode, want := range map[os.FileMode]string{0o600: "permission denied", 0o700: "permission denied", 0o711: ""} {
		if err := errors.Join(os.RemoveAll(secret), os.WriteFile(secret, []byte("1234"), 0o600), os.Chmod(secret, mode)); err != nil {
			t.Fatal(err)
		}
		w := p.launch(plain, "exit 0", as(member), func(o *order, _ *exec.Cmd) { o.Program = secret })
		words := ""
		if w.grant() == nil {
			words = w.heard("", "").Error
		}
		if want == "" && words != "" || !strings.Contains(words, want) {
			t.Errorf("a member with root's file of mode %o as the program: %q, want %q", mode, words, want)
		}
	}
}
func credential(uid, gid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{gid}}}
}

func decoded(t *testing.T, encoded []byte) journal.Verdict {
	t.Helper()
	v, err := journal.DecodeVerdict(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
