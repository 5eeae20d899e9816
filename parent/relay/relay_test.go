package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/instance"
)

// TestMain gives up gaining rights, in all threads and for all that is started here: of others the server shows nothing.
func TestMain(m *testing.M) {
	if given, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && given == 1 {
		os.Exit(m.Run())
	}
	runtime.LockOSThread()
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	fmt.Println(err)
	os.Exit(1)
}

// agent is one whose cgroup is this test's own, or none at all.
type agent struct {
	cgroup string
	uid    int
	gone   chan struct{}
}

func (a agent) ID() string               { return "agent" }
func (a agent) UID() uint32              { return uint32(a.uid) }
func (a agent) Holds(cgroup string) bool { return cgroup == a.cgroup }
func (a agent) Gone() <-chan struct{}    { return a.gone }

func ownAgent(t *testing.T) agent {
	t.Helper()
	path, err := cgroup.Of(os.Getpid())
	if err != nil {
		t.Skip(err)
	}
	return agent{cgroup: path, uid: os.Getuid(), gone: make(chan struct{})}
}

// served is a server for this process as the warden of an agent, in a folder.
func served(t *testing.T, folder string, a Agent) (s *Server, stop func()) {
	t.Helper()
	s, err := Listen(Options{
		Paths: instance.Paths{Relay: filepath.Join(folder, "relay")}, Group: -1, Log: slog.New(slog.DiscardHandler),
		Warden: func(who *task.Task) (Agent, error) {
			if who.PID() != os.Getpid() {
				return nil, errors.New("another")
			}
			return a, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return s, stop
}

func client(t *testing.T, s *Server) *Client {
	c := NewClient(s.options.Paths.Relay)
	t.Cleanup(func() { c.Close() })
	return c
}

// sleeper is a process that waits.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// TestOnlyForReading: what is handed out reads the memory that was asked for, and writes nothing.
func TestOnlyForReading(t *testing.T) {
	s, stop := served(t, t.TempDir(), ownAgent(t))
	defer stop()
	content := []byte("as it is")
	fd, err := client(t, s).Memory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	address := int64(uintptr(unsafe.Pointer(&content[0])))
	read := make([]byte, len(content))
	if _, err := unix.Pread(fd, read, address); err != nil || string(read) != string(content) {
		t.Errorf("read %q, %v", read, err)
	}
	if _, err := unix.Pwrite(fd, []byte("altered"), address); err != unix.EBADF {
		t.Errorf("writing answers %v", err)
	}
	runtime.KeepAlive(content)
}

// TestThreads: a thread is as good as its process, and its descriptors are its own.
func TestThreads(t *testing.T) {
	s, stop := served(t, t.TempDir(), ownAgent(t))
	defer stop()
	c := client(t, s)
	number, end := make(chan int), make(chan struct{})
	for range 2 {
		go func() {
			runtime.LockOSThread()
			number <- unix.Gettid()
			<-end
		}()
	}
	defer close(end)
	thread := max(<-number, <-number) // one of them may be the first thread, which has the lowest number
	if thread == os.Getpid() {
		t.Fatal("two goroutines share a thread")
	}
	fd, err := c.Memory(thread)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if fd, err = c.Descriptor(thread, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if same, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || same != file.Name() {
		t.Errorf("descriptor of %s, %v", same, err)
	}
	if _, err := c.Descriptor(thread, 1<<20); err != unix.EBADF {
		t.Errorf("a number without a file: %v", err)
	}
}

// TestOthersProcesses: a process outside the agent's cgroup is refused, by both questions.
func TestOthersProcesses(t *testing.T) {
	s, stop := served(t, t.TempDir(), agent{cgroup: "/no/such/cgroup", gone: make(chan struct{})})
	defer stop()
	c, other := client(t, s), sleeper(t)
	if fd, err := c.Memory(other.Process.Pid); err != unix.EPERM {
		t.Errorf("memory: %d, %v", fd, err)
	}
	if fd, err := c.Descriptor(other.Process.Pid, 0); err != unix.EPERM {
		t.Errorf("descriptor: %d, %v", fd, err)
	}
}

// TestOthersRights: nothing is shown of a process in the agent's cgroup that is more than the agent, or hides from its own user.
func TestOthersRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it starts processes of other users")
	}
	const user, other = 65533, 65532
	folder := t.TempDir()
	for _, above := range []string{folder, filepath.Dir(folder)} {
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	// Who executes what it may not read cannot be dumped.
	hidden := filepath.Join(folder, "sleep")
	if err := os.WriteFile(hidden, sleep, 0o111); err != nil {
		t.Fatal(err)
	}
	a := ownAgent(t)
	a.uid = user
	s, stop := served(t, folder, a)
	defer stop()
	c := client(t, s)
	for _, tt := range []struct {
		name, program string
		uid           uint32
		want          error
	}{
		{"its own", "/bin/sleep", user, nil},
		{"of another user", "/bin/sleep", other, unix.EPERM},
		{"of root", "/bin/sleep", 0, unix.EPERM},
		{"that cannot be dumped", hidden, user, unix.EPERM},
	} {
		cmd := exec.Command(tt.program, "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.uid}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for question, ask := range map[string]func() (int, error){
			"memory":     func() (int, error) { return c.Memory(cmd.Process.Pid) },
			"descriptor": func() (int, error) { return c.Descriptor(cmd.Process.Pid, 0) },
		} {
			fd, err := ask()
			if err != tt.want {
				t.Errorf("the %s of a process %s: %v, want %v", question, tt.name, err, tt.want)
			}
			unix.Close(fd)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// turning is an agent whose process does something while it is looked at for the second time.
type turning struct {
	agent
	looks int
	turn  func()
}

func (a *turning) Holds(cgroup string) bool {
	if a.looks++; a.looks == 2 {
		a.turn()
	}
	return a.agent.Holds(cgroup)
}

// TestJudgedLast: what a task is, is looked at after something of it was taken. What it becomes then is not handed out.
func TestJudgedLast(t *testing.T) {
	number, secret, want := pipeEnd(t), pipeEnd(t), unix.Stat_t{}
	if err := unix.Fstat(number, &want); err != nil {
		t.Fatal(err)
	}
	a := &turning{agent: ownAgent(t), turn: func() {
		if err := unix.Dup3(secret, number, unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
	}}
	fd, err := descriptor(a, os.Getpid(), number)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var got unix.Stat_t
	if err := unix.Fstat(fd, &got); err != nil || got.Ino != want.Ino {
		t.Errorf("after the last look something else was taken: %v", err)
	}
}

// pipeEnd is a descriptor that is like no other.
func pipeEnd(t *testing.T) int {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
	return ends[0]
}

// lastNumber is where the kernel is told which number it gave away last (CONFIG_CHECKPOINT_RESTORE).
const lastNumber = "/proc/sys/kernel/ns_last_pid"

// TestAnotherTaskWithTheSameNumber: a task is held by its folder in /proc. What has its number later is another one.
func TestAnotherTaskWithTheSameNumber(t *testing.T) {
	if f, err := os.OpenFile(lastNumber, os.O_WRONLY, 0); err != nil {
		t.Skipf("numbers cannot be given twice: %v", err)
	} else {
		f.Close()
	}
	first := sleeper(t)
	number := first.Process.Pid
	held, err := openSubject(number)
	if err != nil {
		t.Fatal(err)
	}
	defer held.close()
	if err := held.of(ownAgent(t)); err != nil {
		t.Fatal(err)
	}
	first.Process.Kill()
	first.Wait()
	for range 1000 {
		if err := os.WriteFile(lastNumber, []byte(strconv.Itoa(number-1)), 0); err != nil {
			t.Skipf("numbers cannot be given twice: %v", err)
		}
		second := sleeper(t)
		if second.Process.Pid != number {
			second.Process.Kill()
			continue // somebody else was faster
		}
		if fd, err := held.open("mem"); err != unix.ESRCH {
			t.Errorf("the memory of process %d, which is another one: %d, %v", number, fd, err)
		}
		if err := held.of(ownAgent(t)); err != unix.ESRCH {
			t.Errorf("whose process %d is, which is another one: %v", number, err)
		}
		return
	}
	t.Skip("the number was never given again")
}

// TestMalformedEndsTheConnection, and only that.
func TestMalformedEndsTheConnection(t *testing.T) {
	s, stop := served(t, t.TempDir(), ownAgent(t))
	defer stop()
	good := request{kind: askMemory, task: int32(os.Getpid())}.encode()
	for name, packet := range map[string][]byte{
		"short": good[:5], "long": append(good[:len(good):len(good)], 0), "unknown": request{kind: 'x', task: 1}.encode(),
		"no task": request{kind: askMemory}.encode(), "a negative number": request{kind: askDescriptor, task: 1, number: -1}.encode(),
	} {
		c := client(t, s)
		if err := c.connect(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendmsg(c.socket, packet, nil, nil, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := c.receive(); !errors.Is(err, errEnded) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	eventually(t, func() bool {
		fd, err := client(t, s).Memory(os.Getpid())
		unix.Close(fd)
		return err == nil
	})
}

// eventually waits for what other goroutines do.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came")
		}
	}
}

// TestDescriptorsAreNotTaken: what somebody sends along is closed unseen.
func TestDescriptorsAreNotTaken(t *testing.T) {
	s, stop := served(t, t.TempDir(), ownAgent(t))
	defer stop()
	c := client(t, s)
	if err := c.connect(); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	err = unix.Sendmsg(c.socket, request{kind: askMemory, task: int32(os.Getpid())}.encode(), unix.UnixRights(int(write.Fd())), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	fd, err := c.receive()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if n, err := read.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("the descriptor is still open")
	}
}

// TestConnectionsAreBounded: who connects and asks nothing takes up his own places, and gives them back.
func TestConnectionsAreBounded(t *testing.T) {
	s, stop := served(t, t.TempDir(), ownAgent(t))
	defer stop()
	var silent []*Client
	for range maxConnections {
		c := client(t, s)
		fd, err := c.Memory(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		silent = append(silent, c)
	}
	if _, err := client(t, s).Memory(os.Getpid()); !errors.Is(err, ErrAway) {
		t.Errorf("one too many: %v", err)
	}
	silent[0].Close()
	eventually(t, func() bool {
		c := client(t, s)
		defer c.Close()
		fd, err := c.Memory(os.Getpid())
		unix.Close(fd)
		return err == nil
	})
}

// TestStrangersAreRefused: another process is told nothing, and neither is the warden of an agent that is gone.
func TestStrangersAreRefused(t *testing.T) {
	a := ownAgent(t)
	s, stop := served(t, t.TempDir(), a)
	defer stop()
	c := client(t, s)
	fd, err := c.Memory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	close(a.gone)
	eventually(t, func() bool {
		fd, err := c.Memory(os.Getpid())
		unix.Close(fd)
		return errors.Is(err, ErrAway)
	})
	// Another process: raypherd knows nothing of it, whatever it asks for.
	other := exec.Command("/proc/self/exe", "-test.run=^TestPlayStranger$")
	other.Env = append(os.Environ(), strangerVariable+"="+s.options.Paths.Relay)
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("a stranger: %v\n%s", err, out)
	}
}

// strangerVariable names the socket for a test process that is a stranger.
const strangerVariable = "RAYPHER_TEST_STRANGER"

func TestPlayStranger(t *testing.T) {
	path := os.Getenv(strangerVariable)
	if path == "" {
		t.Skip("a part of TestStrangersAreRefused")
	}
	if fd, err := NewClient(path).Memory(os.Getpid()); !errors.Is(err, ErrAway) {
		t.Errorf("%d, %v", fd, err)
	}
}

// TestPace: after a burst an agent waits for each further descriptor.
func TestPace(t *testing.T) {
	s := &Server{guests: map[string]*guest{}}
	a := agent{gone: make(chan struct{})}
	if !s.enter(a) {
		t.Fatal("no place for the first")
	}
	s.guests["agent"].spent = time.Now().Add((burst - 2) * every)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if !s.await(ended, a) {
		t.Error("within the burst it waits")
	}
	s.guests["agent"].spent = time.Now().Add(1000 * burst * every)
	if s.await(ended, a) {
		t.Error("beyond the burst it does not wait")
	}
	// Connecting anew does not make it good.
	s.leave(a)
	if !s.enter(a) || s.await(ended, a) {
		t.Error("a new connection begins anew")
	}
}

// TestAFloodWaits: who has had too many gets no answer before its time.
func TestAFloodWaits(t *testing.T) {
	s, stop := served(t, t.TempDir(), ownAgent(t))
	defer stop()
	c := client(t, s)
	fd, err := c.Memory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	s.mu.Lock()
	s.guests["agent"].spent = time.Now().Add(1000 * burst * every)
	s.mu.Unlock()
	if fd, err := c.Memory(os.Getpid()); !errors.Is(err, ErrAway) {
		unix.Close(fd)
		t.Errorf("it was answered: %v", err)
	}
}

// TestServerStartsAgain: the client finds it, and says so meanwhile.
func TestServerStartsAgain(t *testing.T) {
	folder, a := t.TempDir(), ownAgent(t)
	s, stop := served(t, folder, a)
	c := client(t, s)
	ask := func() error {
		fd, err := c.Memory(os.Getpid())
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	stop()
	_, stop = served(t, folder, a)
	if err := ask(); err != nil {
		t.Errorf("without a question in between: %v", err)
	}
	stop()
	eventually(t, func() bool { return errors.Is(ask(), ErrAway) })
	_, stop = served(t, folder, a)
	defer stop()
	if err := ask(); err != nil {
		t.Error(err)
	}
}

// TestServerThatDoesNotAnswer: the client does not wait for ever.
func TestServerThatDoesNotAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay")
	l, err := instance.Listen("unixpacket", path, 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := NewClient(path).Memory(os.Getpid()); !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

func FuzzPackets(f *testing.F) {
	f.Add(request{kind: askMemory, task: 1}.encode())
	f.Add(request{kind: askDescriptor, task: 1, number: 3}.encode())
	f.Add(encodeReply(unix.EPERM))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if r, err := decodeRequest(packet); err == nil && string(r.encode()) != string(packet) {
			t.Errorf("%x is read as %+v", packet, r)
		}
		if errno, err := decodeReply(packet); err == nil && string(encodeReply(errno)) != string(packet) {
			t.Errorf("%x is read as %d", packet, errno)
		}
	})
}
