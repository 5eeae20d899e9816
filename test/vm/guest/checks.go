package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/client"
	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/instance"
)

// under is the backend that the governed program runs under.
var under string

// govern is the governed program in one of its parts.
func govern(part string, args []string) int {
	switch part {
	case "checks":
		under = args[0]
		for _, c := range checks {
			if err := c.try(); err != nil {
				fmt.Printf("not ok %s: %v\n", c.name, err)
			} else {
				fmt.Println("ok", c.name)
			}
		}
		return 0
	case "read": // one file
		content, err := os.ReadFile(args[0])
		if err != nil {
			fmt.Print(err)
			return 1
		}
		fmt.Print(string(content))
		return 0
	case "again": // becomes another program, from a thread that is not the first
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			_, _ = os.ReadFile("/etc/passwd")
			done <- syscall.Exec(program, []string{program, "read", args[0]}, os.Environ())
		}()
		fmt.Print(<-done)
		return 1
	case "speed":
		return measured(args[0])
	case "append":
		if add(args[0], os.O_APPEND|os.O_WRONLY) != nil {
			return 1
		}
		return 0
	case "resident":
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Println(resident(lines.Text()))
		}
		return 0
	}
	return 2
}

// resident does what it is told, and says what came of it in one line.
func resident(told string) string {
	verb, rest, _ := strings.Cut(told, " ")
	switch verb {
	case "child":
		return child(strings.Fields(rest)...)
	case "remove":
		return done(unix.Unlink(rest)) // os.Remove would try rmdir too, which is another question
	case "rename":
		from, to, _ := strings.Cut(rest, " ")
		return done(os.Rename(from, to))
	case "append":
		return done(add(rest, os.O_APPEND|os.O_WRONLY))
	case "create":
		return done(add(rest, os.O_CREATE|os.O_EXCL|os.O_WRONLY))
	case "run":
		argv := strings.Fields(rest)
		return done(exec.Command(argv[0], argv[1:]...).Run())
	case "dial":
		conn, err := net.Dial("tcp", rest)
		if err == nil {
			conn.Close()
		}
		return done(err)
	case "narrow":
		a, err := client.FromEnvironment()
		if err == nil {
			defer a.Close()
			_, err = a.RequestVisa(context.Background(), client.Request{Intent: []byte(rest), GuardFollows: true})
		}
		if err != nil {
			return err.Error()
		}
		return "narrowed"
	}
	content, err := os.ReadFile(rest)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// done says in a word that something was done, or why not.
func done(err error) string {
	if err != nil {
		return err.Error()
	}
	return "done"
}

// add writes one byte to a file.
func add(path string, flags int) error {
	file, err := os.OpenFile(path, flags, 0o666)
	if err != nil {
		return err
	}
	_, err = file.WriteString("x")
	return errors.Join(err, file.Close())
}

// child runs this program once more and returns what it printed.
func child(args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	return string(out)
}

// checks are what a governed program tries. They run in the agent's home, below work.
var checks = []struct {
	name string
	try  func() error
}{
	{"a granted file", func() error { return content("notes", "the notes") }},
	{"a file that no rule grants", func() error { return refused(os.ReadFile("../secret")) }},
	{"a file that a pattern denies", func() error { return refused(os.ReadFile("private.key")) }},
	{"by a relative folder", inFolder},
	{"writing, renaming, removing", change},
	{"mode of an open file", openFile},
	{"cutting without writing", cutting},
	{"a granted program", func() error { return same(child("read", "notes"), "the notes") }},
	{"a program whose child is refused", func() error { return has(child("read", "private.key"), "permission denied") }},
	{"a program that becomes another", func() error { return same(child("again", "notes"), "the notes") }},
	{"a program that no rule grants", func() error { return refused(nil, exec.Command(copied, "read", "notes").Run()) }},
	{"many children at once", children},
	{"many threads at once", threads},
	{"an address that is not granted", connectAway},
	{"a name that is not granted", func() error { _, err := net.LookupHost("example.com"); return failed(err) }},
	{"a granted unix socket", func() error { return dial(grantedSocket) }},
	{"a unix socket that is not granted", func() error { return refused(nil, dial(otherSocket)) }},
	{"the relay of raypherd", relaySockets},
	{"the visa", visaFile},
	{"signals", signals},
	{"what Yama keeps", yamaKeeps},
}

func content(path, want string) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return same(string(got), want)
}

func same(got, want string) error {
	if got != want {
		return fmt.Errorf("%q instead of %q", got, want)
	}
	return nil
}

func has(got, want string) error {
	if !strings.Contains(got, want) {
		return fmt.Errorf("%q without %q", got, want)
	}
	return nil
}

// refused wants that something was refused.
func refused(_ []byte, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return fmt.Errorf("%v instead of a refusal", err)
}

func failed(err error) error {
	if err == nil {
		return errors.New("it was done")
	}
	return nil
}

func inFolder() error {
	folder, err := unix.Open(".", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(folder)
	fd, err := unix.Openat(folder, "notes", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func change() error {
	if err := os.MkdirAll("a/b", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("a/b/one", []byte("1"), 0o600); err != nil {
		return err
	}
	if err := os.Rename("a/b/one", "a/two"); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if err := content("a/two", "1"); err != nil {
		return err
	}
	if err := refused(nil, os.Rename("a/two", "../two")); err != nil {
		return fmt.Errorf("out of the grant: %w", err)
	}
	if err := refused(nil, os.WriteFile("new.key", nil, 0o600)); err != nil {
		return fmt.Errorf("a new key where keys are granted: %w", err)
	}
	return os.RemoveAll("a")
}

// openFile changes what the broker must take from the agent by its number.
func openFile() error {
	f, err := os.Create("open")
	if err != nil {
		return err
	}
	defer os.Remove("open")
	defer f.Close()
	if err := f.Chmod(0o640); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return same(st.Mode().String(), "-rw-r-----")
}

// cutting: before Linux 6.2 Landlock does not hold truncation, so what could cut a file that is only read does not go on there.
func cutting() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	var want, wantHow error
	if under == agents.Broker && strings.HasPrefix(unix.ByteSliceToString(u.Release[:]), "6.1.") {
		want, wantHow = unix.EACCES, unix.ENOSYS
	}
	if err := os.WriteFile("cut", []byte("long"), 0o600); err != nil {
		return err
	}
	defer os.Remove("cut")
	fd, err := unix.Open("cut", unix.O_RDONLY|unix.O_TRUNC, 0)
	if fd >= 0 {
		unix.Close(fd)
	}
	if err != want {
		return fmt.Errorf("open for reading, cutting: %v, want %v", err, want)
	}
	fd, err = unix.Openat2(unix.AT_FDCWD, "cut", &unix.OpenHow{Flags: unix.O_RDONLY})
	if fd >= 0 {
		unix.Close(fd)
	}
	if err != wantHow {
		return fmt.Errorf("openat2: %v, want %v", err, wantHow)
	}
	return os.WriteFile("cut", []byte("short"), 0o600) // cuts and writes, as always
}

// children start and end while others read: each has an address space of its own after sharing its parent's.
func children() error {
	var wait sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			name := fmt.Sprint("child", i)
			want := strings.Repeat(name, 3)
			if errs[i] = os.WriteFile(name, []byte(want), 0o600); errs[i] == nil {
				errs[i] = errors.Join(same(child("read", name), want), same(child("again", name), want), os.Remove(name))
			}
		}()
	}
	wait.Wait()
	return errors.Join(errs...)
}

func threads() error {
	var wait sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			runtime.LockOSThread() // and ends with the goroutine
			for range 20 {
				errs[i] = errors.Join(errs[i], content("notes", "the notes"), refused(os.ReadFile("private.key")))
			}
		}()
	}
	wait.Wait()
	return errors.Join(errs...)
}

func connectAway() error {
	for _, address := range []string{"127.0.0.1:9", "10.1.2.3:80", "[::1]:9"} {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err == nil {
			conn.Close()
			return fmt.Errorf("%s: connected", address)
		}
		if err := refused(nil, err); err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
	}
	return nil
}

func dial(path string) error {
	conn, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer := make([]byte, 16)
	n, _ := conn.Read(answer)
	return same(string(answer[:n]), "served")
}

// relaySockets: no agent speaks to what its warden speaks to.
func relaySockets() error {
	paths := append(instance.PrivateSockets(), instance.Default().Relay, instance.Default().Socket,
		filepath.Join(filepath.Dir(os.Getenv(instance.AgentSocketVariable)), filepath.Base(instance.Default().Relay)))
	for _, path := range paths {
		for _, kind := range []int{unix.SOCK_SEQPACKET, unix.SOCK_STREAM} {
			fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			unix.Close(fd)
			if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%s: %v", path, err)
			}
		}
	}
	return nil
}

func visaFile() error {
	raw, err := os.ReadFile(os.Getenv(instance.VisaVariable))
	if err == nil && len(raw) < 100 {
		err = fmt.Errorf("%d bytes", len(raw))
	}
	return err
}

func signals() error {
	sleeper := exec.Command(program, "resident")
	in, err := sleeper.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := sleeper.Start(); err != nil {
		return err
	}
	err = sleeper.Process.Signal(syscall.SIGTERM)
	_ = sleeper.Wait() // by the signal
	if err == nil && !sleeper.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		err = errors.New("it was not ended by the signal")
	}
	if err := refused(nil, syscall.Kill(1, 0)); err != nil {
		return fmt.Errorf("a process outside: %w", err)
	}
	return err
}

// yamaKeeps: the agent itself gains no sight of its warden or of others.
func yamaKeeps() error {
	for _, path := range []string{"/proc/1/mem", "/proc/1/environ"} {
		if _, err := os.ReadFile(path); err == nil {
			return fmt.Errorf("%s can be read", path)
		}
	}
	return nil
}
