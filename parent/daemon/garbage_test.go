package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/raypher/raypher/parent/attend"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// Whatever is sent, raypherd goes on and nothing is opened.
func TestGarbage(t *testing.T) {
	p := newPair(t).start()
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	noise := make([]byte, 1<<16)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	for _, at := range []struct{ network, address string }{{"unix", p.paths.Socket}, {"unix", p.paths.AgentSocket}, {"tcp", p.address()}} {
		for _, sent := range [][]byte{nil, noise, []byte("GET / HTTP/1.1\r\n\r\n"), preface, append(preface[:len(preface):len(preface)], noise...),
			{attend.FirstByte}, {0xff, 0xff, 0xff, 0xff}, append([]byte{attend.FirstByte, 0, 16, 0}, noise...), append([]byte{attend.FirstByte, 0xff, 0xff, 0xff}, noise...)} {
			conn, err := net.Dial(at.network, at.address)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(sent) // may fail: raypherd may have hung up
			conn.Close()
		}
	}

	for name, m := range map[string]*attend.WardenMessage{
		"nothing":            {},
		"started at once":    {Started: &attend.Started{}},
		"an empty launch":    {Launch: &attend.Launch{}},
		"reattach of nil":    {Reattach: &attend.Reattach{}},
		"reattach of nobody": {Reattach: &attend.Reattach{AgentID: "../../etc"}},
		"a policy too large": {Launch: &attend.Launch{Policy: bytes.Repeat([]byte("#"), 2<<20), RunnerPID: int32(os.Getpid())}},
	} {
		session, err := attend.Dial(t.Context(), p.paths.Socket)
		if err != nil {
			t.Fatal(err)
		}
		if err := begin(session, m); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: no reason was said: %v", name, err)
		}
		session.Close()
	}
	if counters := p.counters(); counters["panics"] != 0 {
		t.Errorf("%d panics", counters["panics"])
	}
	p.run(plain, "exit 0")
}

func (p *pair) counters() map[string]uint64 {
	p.t.Helper()
	reply, err := p.operator().Status(context.Background(), &parentv1.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return reply.Counters
}

func TestBadRequestsOfAnAgent(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, "sleep 1000")
	for name, tt := range map[string]struct{ intent, want string }{
		"malformed":   {"mode: [", "intent:2:1"},
		"too large":   {strings.Repeat("#", 300<<10), "at most"},
		"a wider one": {"network: {default_action: allow}", "beyond"},
	} {
		if answer := w.asked(p.paths.AgentSocket, "visa", tt.intent); !strings.Contains(answer, "InvalidArgument") || !strings.Contains(answer, tt.want) {
			t.Errorf("%s: %s", name, answer)
		}
	}
	granted, refused := 0, 0
	for range 100 {
		if answer := w.asked(p.paths.AgentSocket, "visa", ""); strings.Contains(answer, "ResourceExhausted") {
			refused++
		} else if strings.HasPrefix(answer, "permit") {
			granted++
		}
	}
	if granted < 40 || refused == 0 {
		t.Errorf("of 100 requests at once %d were granted and %d refused: an agent's journal is bounded", granted, refused)
	}
}

// A private raypherd that was killed is cleaned up after by the next one.
func TestLeftoversOfAPrivateRun(t *testing.T) {
	p := newPair(t)
	cmd := exec.Command(filepath.Join(p.bin, "raypherd"), "--run-dir", p.paths.Run, "--state-dir", p.paths.State, "--private", "left1234")
	p.log = &safeBuffer{}
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.eventually("raypherd serves", func() bool { return strings.Contains(p.log.String(), "raypherd serves") })
	run := filepath.Join(p.paths.Run, "private", "left1234")
	w := p.run(plain, "echo inside; sleep 1000", func(o *order, _ *exec.Cmd) { o.Socket = filepath.Join(run, "raypherd.sock") })
	w.printed("inside")
	cmd.Process.Kill()
	cmd.Wait()

	places := []string{run, "/sys/fs/bpf/raypher-left1234", filepath.Join(filepath.Dir(p.cgroupPath()), "raypher-left1234")}
	p.start()
	for _, place := range places {
		if _, err := os.Stat(place); err != nil {
			t.Errorf("while its agent lives, a private run keeps its guard: %v", err)
		}
	}
	p.end(syscall.SIGTERM)
	if err := os.WriteFile(filepath.Join(places[2], w.grant().AgentID, "cgroup.kill"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	p.eventually("its cgroup is empty", func() bool {
		content, err := os.ReadFile(filepath.Join(places[2], w.grant().AgentID, "cgroup.events"))
		return err == nil && strings.Contains(string(content), "populated 0")
	})
	p.start()
	for _, place := range places {
		if _, err := os.Stat(place); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", place, err)
		}
	}
}

// Private runs may begin at the same moment; none cleans another one away.
func TestManyPrivateRunsAtOnce(t *testing.T) {
	p := newPair(t)
	var all sync.WaitGroup
	for i := range 6 {
		all.Add(1)
		go func() {
			defer all.Done()
			cmd := exec.Command(filepath.Join(p.bin, "raypherd"), "--run-dir", p.paths.Run, "--state-dir", p.paths.State, "--private", fmt.Sprintf("many%d", i))
			log := &safeBuffer{}
			cmd.Stderr = log
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			for range 2000 {
				if strings.Contains(log.String(), "raypherd serves") {
					break
				}
				pause()
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil || !strings.Contains(log.String(), "raypherd serves") {
				t.Errorf("private run %d: %v\n%s", i, err, log)
			}
		}()
	}
	all.Wait()
	if left, _ := os.ReadDir(filepath.Join(p.paths.Run, "private")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHostPolicyThroughTheCommand(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("namespace: house\n"+reject()), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, "--policy", policy).start()
	run, out := p.raypher("run", "--", "sh", "-c", "echo inside")
	if err := run.Wait(); err != nil || !strings.Contains(out.String(), "/ns/house/agent/sh") || !strings.Contains(out.String(), "inside") {
		t.Errorf("%v: %s", err, out)
	}
}
