package link_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

// patience bounds waits; nothing is asserted about time.
const patience = 30 * time.Second

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Each start is an epoch of its own that names the one before, with the same key, over one journal.
func TestRestartContinuesTheJournal(t *testing.T) {
	dir := folder(t)
	for run := range 3 {
		p := startQuiet(t, dir)
		if _, err := p.Mint(bounded(t), request(t, "agent")); err != nil {
			t.Fatal(err)
		}
		if run == 1 { // the harder end
			syscall.Kill(p.PID(), syscall.SIGKILL)
			<-p.Ended()
		}
		p.Close()
		epochs := p.store.Epochs()
		if len(epochs) != run+1 {
			t.Fatalf("%d epochs after start %d", len(epochs), run+1)
		}
		_, raw, err := p.store.Receipt(epochs[run], 0)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := journal.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		start, err := journal.DecodeEpochStart(entry.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if run > 0 && (start.Predecessor == nil || start.Predecessor.Epoch != epochs[run-1]) {
			t.Errorf("epoch %d does not name its predecessor: %+v", run, start.Predecessor)
		}
		if err := p.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever a caller was given lies in the store, when the enclave is killed in the middle of it all.
func TestKilledWhileMinting(t *testing.T) {
	p := startQuiet(t, folder(t))
	ctx := bounded(t)
	d, err := p.Describe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, err := journal.ParseKey(d.GetPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	var (
		wait    sync.WaitGroup
		mu      sync.Mutex
		granted [][]byte
	)
	enough := make(chan struct{})
	for i := range 16 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			r := request(t, fmt.Sprintf("agent-%d", i))
			for {
				reply, err := p.Mint(ctx, r)
				if err != nil {
					if !errors.Is(err, link.ErrUnreachable) && !errors.Is(err, link.ErrBusy) {
						t.Errorf("killed enclave: %v", err)
					}
					if !errors.Is(err, link.ErrBusy) {
						return
					}
					continue
				}
				mu.Lock()
				granted = append(granted, reply.GetVisa())
				if len(granted) == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		}()
	}
	<-enough
	syscall.Kill(p.PID(), syscall.SIGKILL)
	wait.Wait()
	for _, v := range granted {
		if _, err := visa.Verify(v, visa.Options{Keys: []*journal.Key{key}, AllowSoftware: true}); err != nil {
			t.Fatal(err)
		}
		entry, receipt, _, err := visa.Split(v)
		if err != nil {
			t.Fatal(err)
		}
		_, stored, err := p.store.Receipt(receipt.Epoch, receipt.Index)
		if err != nil || string(stored) != string(entry) {
			t.Fatalf("visa at %d was granted and is not in the journal: %v", receipt.Index, err)
		}
	}
	if err := p.Reachable(); !errors.Is(err, link.ErrUnreachable) {
		t.Errorf("after the kill: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := folder(t)
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	keys := filepath.Join(dir, "keys")
	l, err := link.Dial(link.Options{
		Address: "unix:" + filepath.Join(dir, "none"), Caller: openCaller(t, keys), PinFile: filepath.Join(keys, link.PinFile), Store: store, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	waitErr := l.Wait(ctx)
	_, mintErr := l.Mint(bounded(t), request(t, "agent"))
	_, describeErr := l.Describe(bounded(t))
	for _, err := range []error{waitErr, mintErr, describeErr, l.Reachable()} {
		if !errors.Is(err, link.ErrUnreachable) || !strings.Contains(err.Error(), filepath.Join(dir, "none")) {
			t.Errorf("%v", err)
		}
	}
}

// An enclave that another parent was set up for refuses this one, and the message holds the line to add.
func TestUnknownCaller(t *testing.T) {
	p := startQuiet(t, folder(t))
	other := folder(t)
	caller := openCaller(t, other)
	l, err := link.Dial(link.Options{
		Address: "unix:" + p.options.Socket, Caller: caller, PinFile: filepath.Join(other, link.PinFile), Store: p.store, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err = l.Reachable()
		if err != nil && strings.Contains(err.Error(), "caller_key = "+caller.Hash().String()) {
			return
		}
		if err == nil || time.Now().After(deadline) {
			t.Fatalf("%v", err)
		}
	}
}

// Whoever answers at the socket must hold the key that answered first.
func TestAnotherEnclaveAnswers(t *testing.T) {
	dir := folder(t)
	p := startQuiet(t, dir)
	p.Close()
	p.store.Close()
	if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil { // a new key at the next start
		t.Fatal(err)
	}
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	options := p.options
	options.Store, options.Log = store, quiet()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := link.StartLocal(ctx, options); !errors.Is(err, link.ErrPeer) || !strings.Contains(err.Error(), link.PinFile) {
		t.Errorf("%v", err)
	}
}

// failingStore fails when told so.
type failingStore struct {
	link.Store
	mu  sync.Mutex
	err error
}

func (s *failingStore) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *failingStore) Append(b *enclavev1.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return s.Store.Append(b)
}

// A disk that fails stops minting and says so; when it works again so does the mint, and the batch that waited is not lost.
func TestStoreFailsAndHeals(t *testing.T) {
	dir := folder(t)
	audited, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer audited.Close()
	store := &failingStore{Store: audited}
	local, err := link.StartLocal(bounded(t), link.LocalOptions{
		Development: true,
		Binary:      enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
		Keys: filepath.Join(dir, "keys"), Store: store, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if _, err := local.Mint(bounded(t), request(t, "agent")); err != nil {
		t.Fatal(err)
	}
	store.set(errors.New("no space left on device"))
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := local.Mint(ctx, request(t, "agent")); err == nil {
		t.Fatal("minted without a disk")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := local.Reachable()
		if err != nil && strings.Contains(err.Error(), "no space left on device") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v", err)
		}
	}
	store.set(nil)
	if err := local.Wait(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Mint(bounded(t), request(t, "agent")); err != nil {
		t.Fatal(err)
	}
}

// A store that is put back to an earlier state cannot go on within the epoch.
func TestStoreRolledBack(t *testing.T) {
	dir := folder(t)
	p := startQuiet(t, dir)
	if _, err := p.Mint(bounded(t), request(t, "agent")); err != nil {
		t.Fatal(err)
	}
	empty, err := audit.Open(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	keys := filepath.Join(dir, "keys")
	l, err := link.Dial(link.Options{
		Address: "unix:" + p.options.Socket, Caller: openCaller(t, keys), PinFile: filepath.Join(keys, link.PinFile), Store: empty, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err = l.Reachable()
		if err != nil && strings.Contains(err.Error(), "restart the enclave to begin a new epoch") {
			break
		}
		if err == nil || time.Now().After(deadline) {
			t.Fatalf("%v", err)
		}
	}
	if _, err := p.Mint(bounded(t), request(t, "agent")); err != nil {
		t.Errorf("the true store was disturbed: %v", err)
	}
}

func TestStartLocalSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(t *testing.T, dir string, o *link.LocalOptions)
		want string
	}{
		"no binary": {func(t *testing.T, dir string, o *link.LocalOptions) { o.Binary = filepath.Join(dir, "none") }, "is raypher-enclave installed"},
		"bad configuration": {func(t *testing.T, dir string, o *link.LocalOptions) {
			caller := openCaller(t, o.Keys)
			text := fmt.Sprintf("caller_key = %s\nttl_seconds = 1\n", caller.Hash())
			if err := os.WriteFile(filepath.Join(o.Keys, startconf.FileName), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "ttl_seconds"},
		"configuration for another parent": {func(t *testing.T, dir string, o *link.LocalOptions) {
			openCaller(t, o.Keys)
			text := "caller_key = sha256:" + strings.Repeat("00", 32)
			if err := os.WriteFile(filepath.Join(o.Keys, startconf.FileName), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "add `caller_key = sha256:"},
		"state folder that others may enter": {func(t *testing.T, dir string, o *link.LocalOptions) {
			if err := os.Mkdir(o.State, 0o777); err != nil {
				t.Fatal(err)
			}
			os.Chmod(o.State, 0o777)
		}, "chmod 0700"},
		"socket in a folder that others use": {func(t *testing.T, dir string, o *link.LocalOptions) { o.Socket = filepath.Join(os.TempDir(), "e.sock") }, "lets others in"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			store, err := audit.Open(filepath.Join(dir, "journal"))
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			o := link.LocalOptions{
				Development: true,
				Binary:      enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
				Keys: filepath.Join(dir, "keys"), Store: store, Log: quiet(),
			}
			c.bend(t, dir, &o)
			local, err := link.StartLocal(bounded(t), o)
			if err == nil {
				local.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// The running service is confined: own user, no capability, seccomp, no new privileges, unreadable memory.
func TestRunsConfined(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming the enclave's user needs root")
	}
	p := startQuiet(t, folder(t))
	if _, err := p.Mint(bounded(t), request(t, "agent")); err != nil { // it works in there
		t.Fatal(err)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks { // every thread
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", p.PID(), task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]string{}
		for _, line := range strings.Split(string(text), "\n") {
			key, value, _ := strings.Cut(line, ":")
			status[key] = strings.TrimSpace(value)
		}
		if strings.HasPrefix(status["Uid"], "0\t") || strings.Contains(status["Uid"], "\t0") {
			t.Errorf("thread %s: Uid %q", task.Name(), status["Uid"])
		}
		for key, want := range map[string]string{
			"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "Groups": "",
		} {
			if status[key] != want {
				t.Errorf("thread %s: %s %q, want %q", task.Name(), key, status[key], want)
			}
		}
	}
	// Who is not root cannot reach the socket, whatever key it holds.
	probe := exec.Command("stat", p.options.Socket)
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	if out, err := probe.CombinedOutput(); err == nil {
		t.Errorf("another user reaches the socket: %s", out)
	}
}

const helperVariable = "RAYPHER_LINK_TEST_FOLDER"

// TestHelperParent is no test: it is the parent that TestParentKilled kills.
func TestHelperParent(t *testing.T) {
	dir := os.Getenv(helperVariable)
	if dir == "" {
		t.Skip("the other half of TestParentKilled")
	}
	p := startQuiet(t, dir)
	fmt.Printf("enclave %d\n", p.PID())
	select {}
}

// A parent that is killed leaves no enclave behind.
func TestParentKilled(t *testing.T) {
	parent := exec.Command(os.Args[0], "-test.run", "^TestHelperParent$")
	parent.Env = append(os.Environ(), helperVariable+"="+folder(t))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	defer parent.Process.Kill()
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "enclave "); ok {
			if pid, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid == 0 {
		t.Fatal("no enclave was started")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); gone(pid) == false; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the enclave lives on")
		}
	}
}

// gone says whether a process has ended; a zombie has.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}
