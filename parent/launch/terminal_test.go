package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shellPolicy lets the system's programs run.
const shellPolicy = `
mode: enforce
filesystem:
  read: ["/**"]
  write: [FOLDER/w/**, /dev/pts/**]
  exec: ["/usr/**", "/bin/**", "/root/.pyenv/**", "/opt/**", "/nix/**", SELF, FOLDER/bin/**]
  deny: ["/**/.ssh/**"]
`

func TestExitCodes(t *testing.T) {
	needLandlock(t)
	for _, tt := range []struct {
		name  string
		argv  []string
		code  int
		words string
	}{
		{"the program's own", []string{"sh", "-c", "exit 7"}, 7, ""},
		{"success", []string{"/bin/true"}, 0, ""},
		{"not found in PATH", []string{"no-such-program"}, CodeNotFound, "no such program in PATH"},
		{"not found by path", []string{"./no-such-program"}, CodeNotFound, "no such file"},
		{"a folder", []string{"/tmp"}, CodeNotExecutable, "is a directory"},
		{"not executable", []string{"FOLDER/plain"}, CodeNotExecutable, "permission denied"},
		{"of no format", []string{"FOLDER/bin/garbage"}, CodeNotExecutable, "exec format error"},
		{"not granted", []string{"FOLDER/ungranted"}, CodeNotExecutable, "add it to filesystem.exec"},
		{"a script without its interpreter", []string{"FOLDER/bin/orphan"}, CodeNotFound, "interpreter does not exist"},
		{"a script", []string{"FOLDER/bin/script", "a", "b c"}, 3, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t, os.Getuid(), shellPolicy)
			a.write("plain", "")
			for name, content := range map[string]string{
				"bin/garbage": "garbage", "ungranted": "#!/bin/sh\n", "bin/orphan": "#!/no/interpreter\n",
				"bin/script": "#!/bin/sh\n[ \"$0 $1 $2\" = \"$HOME/bin/script a b c\" ] && exit 3\n",
			} {
				a.must(os.Chmod(a.write(name, content), 0o755))
			}
			for i := range tt.argv {
				tt.argv[i] = a.expand(tt.argv[i])
			}
			_, stderr, code := a.run(tt.argv...)
			if code != tt.code || !strings.Contains(stderr, tt.words) {
				t.Errorf("exit code %d, want %d; said %q, want %q in it", code, tt.code, stderr, tt.words)
			}
		})
	}
}

func TestSignalsEndTheProgramItself(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), shellPolicy)
	cmd := a.command("sh", "-c", "kill -TERM $$")
	_ = cmd.Run()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGTERM {
		t.Errorf("it ended with %v, want it ended by SIGTERM", cmd.ProcessState)
	}
}

func TestBadPolicyStartsNothing(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), "mode: nonsense\n")
	out, stderr, code := a.run("sh", "-c", "echo started")
	if code != CodeGuard || out != "" || !strings.Contains(stderr, "enforce") {
		t.Errorf("exit code %d, output %q, said %q", code, out, stderr)
	}
}

func TestPipes(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), shellPolicy)
	a.command("true") // owners
	script := func(text string) string {
		guarded := fmt.Sprintf("%s %s %s %s", a.self, roleRunner, a.policy, a.verdicts)
		raw, err := exec.Command("bash", "-c", "set -o pipefail; run() { "+guarded+" \"$@\"; }; "+text).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"a pipe that the reader closes", "yes | run head -n 2; echo ${PIPESTATUS[@]}", "y\ny\n141 0\n"},
		{"a pipe that the program fills", "run yes | head -n 1; echo ${PIPESTATUS[@]}", "y\n141 0\n"},
		{"standard input", "echo text | run cat", "text\n"},
		{"process substitution", "run cat <(echo one) <(echo two)", "one\ntwo\n"},
		{"a substitution waits for the program only", "x=$(run sh -c 'sleep 30 </dev/null >/dev/null 2>&1 & echo done' 2>&1); echo $x", "done\n"},
		{"closed standard descriptors", "run sh -c 'exit 4' <&- >&- 2>&-; echo $?", "4\n"},
		{"a file left open is not inherited", "exec 9</etc/passwd; run sh -c '[ -e /proc/self/fd/9 ] && echo inherited'; echo $?", "1\n"},
		{"the limit of open files", "ulimit -Sn 777; run sh -c 'ulimit -Sn'", "777\n"},
		{"ignored signals stay so", "trap '' HUP INT; run sh -c 'kill -INT $$; kill -HUP $$; echo alive'", "alive\n"},
		{"the signal mask", "run grep SigBlk /proc/self/status", "SigBlk:\t0000000000000000\n"},
		{"no child that it never started", "run bash -c 'wait; read x </proc/$$/task/$$/children; echo \"[$x]\"'", "[]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := script(tt.text); got != tt.want {
				t.Errorf("%s\ngot  %q\nwant %q", tt.text, got, tt.want)
			}
		})
	}
}

func TestNetworkSocketOnStandardInputIsRefused(t *testing.T) {
	needLandlock(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	file, err := connection.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	a := newAgent(t, os.Getuid(), shellPolicy)
	cmd := a.command("true")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = file, &stderr
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != CodeGuard || !strings.Contains(stderr.String(), "network socket") {
		t.Errorf("exit code %d, said %q", code, stderr.String())
	}
}

// terminal is a pseudo terminal with a shell in it.
type terminal struct {
	t      *testing.T
	master *os.File
	mutex  sync.Mutex
	seen   []byte
}

func newTerminal(t *testing.T, a *agent, shell ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	unlock := 0
	a.must(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, unlock))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	a.must(err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	a.must(err)
	defer slave.Close()
	cmd := exec.Command(shell[0], shell[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "PS1=ready> ", "TERM=dumb", "HOME="+a.folder, "HISTFILE=")
	cmd.Dir = a.folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	a.must(cmd.Start())
	term := &terminal{t: t, master: master}
	go term.read()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); master.Close() })
	return term
}

func (term *terminal) read() {
	buffer := make([]byte, 4096)
	for {
		n, err := term.master.Read(buffer)
		term.mutex.Lock()
		term.seen = append(term.seen, buffer[:n]...)
		term.mutex.Unlock()
		if err != nil {
			return
		}
	}
}

func (term *terminal) typeIn(text string) {
	term.t.Helper()
	if _, err := io.WriteString(term.master, text); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits until the terminal has shown text since the last call.
func (term *terminal) expect(text string) {
	term.t.Helper()
	for range 1500 {
		term.mutex.Lock()
		at := bytes.Index(term.seen, []byte(text))
		if at >= 0 {
			term.seen = term.seen[at+len(text):]
		}
		seen := string(term.seen)
		term.mutex.Unlock()
		if at >= 0 {
			return
		}
		if strings.Contains(seen, "\x00never") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	term.mutex.Lock()
	defer term.mutex.Unlock()
	term.t.Fatalf("the terminal never showed %q; it showed %q", text, term.seen)
}

func TestTerminal(t *testing.T) {
	needLandlock(t)
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash")
	}
	a := newAgent(t, os.Getuid(), shellPolicy)
	a.command("true")
	guarded := fmt.Sprintf("%s %s %s %s ", a.self, roleRunner, a.policy, a.verdicts)
	term := newTerminal(t, a, "bash", "--norc", "--noprofile", "-i")
	term.expect("ready> ")

	term.typeIn(guarded + "sleep 1000\n")
	term.expect("sleep 1000")
	time.Sleep(time.Second)
	term.typeIn("\x03")
	term.expect("ready> ")
	term.typeIn("echo code=$?\n")
	term.expect("code=130")

	term.typeIn(guarded + "sleep 1000\n")
	term.expect("sleep 1000")
	time.Sleep(time.Second)
	term.typeIn("\x1a")
	term.expect("Stopped")
	term.typeIn("fg\n")
	term.expect("sleep 1000")
	time.Sleep(200 * time.Millisecond)
	term.typeIn("\x03")
	term.expect("ready> ")
	term.typeIn("echo code=$?\n")
	term.expect("code=130")

	// A shell inside, with jobs of its own.
	term.typeIn(guarded + "bash --norc --noprofile -i\n")
	term.expect("ready> ")
	term.typeIn("echo inside=$RAYPHER_AGENT_ID\n")
	term.expect("inside=test")
	term.typeIn("sleep 1000\n")
	time.Sleep(500 * time.Millisecond)
	term.typeIn("\x1a")
	term.expect("Stopped")
	term.typeIn("jobs\n")
	term.expect("sleep 1000")
	term.typeIn("kill %1; wait; fg\n")
	term.typeIn("tty; stty size >/dev/null && echo stty=ok; echo x >/dev/tty && echo tty=ok\n")
	term.expect("stty=ok")
	term.expect("tty=ok")
	term.typeIn("exit 5\n")
	term.expect("ready> ")
	term.typeIn("echo code=$?\n")
	term.expect("code=5")
}

func TestRealPrograms(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, shellPolicy)
		a.write("w/input", "b\na\n")
		a.write(".ssh/id", "secret")
		for _, tt := range []struct {
			name string
			argv []string
			want string
		}{
			{"sort in place", []string{"bash", "-c", "cd w && sort -o input input && cat input"}, "a\nb\n"},
			{"here document", []string{"bash", "-c", "cat <<< text"}, "text\n"},
			{"many tools", []string{"bash", "-c", "cd w && mkdir -p x/y && echo 1 > x/y/z && cp -a x c && mv c d && tar cf t.tar d && rm -r d && tar xf t.tar && cat d/y/z && touch d/y/z && chmod 600 d/y/z && ln -s z d/y/l && find d | wc -l && rm -rf d x t.tar && ls"}, "1\n4\ninput\n"},
			{"a secret", []string{"bash", "-c", "cat .ssh/id 2>/dev/null || echo refused"}, "refused\n"},
			{"removing a secret", []string{"bash", "-c", "rm -rf .ssh 2>/dev/null || echo refused"}, "refused\n"},
			{"python", []string{"python3", "-c", "import subprocess,json,threading,tempfile; print(subprocess.check_output(['echo','sub'],text=True),end='')"}, "sub\n"},
			{"node", []string{"node", "-e", "require('child_process').execFile('echo',['sub'],(e,o)=>process.stdout.write(o));require('fs').writeFileSync('w/n','x')"}, "sub\n"},
			{"curl of a file", []string{"curl", "-s", "file://FOLDER/w/input"}, "a\nb\n"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				path, err := exec.LookPath(tt.argv[0])
				if err != nil {
					t.Skipf("no %s here", tt.argv[0])
				}
				argv := make([]string, len(tt.argv))
				for i := range argv {
					argv[i] = a.expand(tt.argv[i])
				}
				if uid != 0 && strings.HasPrefix(path, "/root/") {
					if path, err = exec.LookPath("/usr/bin/" + tt.argv[0]); err != nil {
						t.Skipf("%s belongs to root alone", tt.argv[0])
					}
					argv[0] = path
				}
				out, stderr, code := a.run(argv...)
				if code != 0 || out != tt.want {
					t.Errorf("exit code %d, output %q, want %q\n%s", code, out, tt.want, stderr)
				}
			})
		}
		if raw, err := os.ReadFile(a.folder + "/.ssh/id"); err != nil || string(raw) != "secret" {
			t.Errorf("the secret: %q, %v", raw, err)
		}
	})
}
