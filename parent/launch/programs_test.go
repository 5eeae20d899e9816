package launch

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
)

func init() {
	maps.Copy(actionTable, map[string]func([]string) error{
		"map": func(a []string) error { // path, shared or private: map it for execution
			kind := map[string]int{"shared": unix.MAP_SHARED, "private": unix.MAP_PRIVATE}[a[1]]
			return withFile(a[0], func(fd int) error { return mapForExecution(fd, kind) })
		},
		"map-memory": func(a []string) error {
			kind := map[string]int{"shared": unix.MAP_SHARED, "private": unix.MAP_PRIVATE}[a[0]]
			fd, err := unix.MemfdCreate("code", 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Ftruncate(fd, 4096); err != nil {
				return err
			}
			return mapForExecution(fd, kind)
		},
		"map-anonymous": func([]string) error { return mapForExecution(-1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) },
		"load-memory": func(a []string) error { // loader, program: the loader is given a copy in memory
			raw, err := os.ReadFile(a[1])
			if err != nil {
				return err
			}
			fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC)
			if err != nil {
				return err
			}
			file := os.NewFile(uintptr(fd), "program")
			defer file.Close()
			if _, err := file.Write(raw); err != nil {
				return err
			}
			cmd := exec.Command(a[0], "/proc/self/fd/3")
			cmd.ExtraFiles = []*os.File{file}
			return cmd.Run()
		},
		"preload": func(a []string) error { // library, program
			cmd := exec.Command(a[1])
			cmd.Env = append(os.Environ(), "LD_PRELOAD="+a[0])
			var said bytes.Buffer
			cmd.Stderr = &said
			err := cmd.Run()
			if err == nil && said.Len() > 0 {
				return unix.EACCES // the loader goes on without it, and says so
			}
			return err
		},
	})
}

func mapForExecution(fd, kind int) error {
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, uintptr(kind), uintptr(fd), 0)
	return errnoOrNil(errno)
}

// loaderOf is the dynamic loader of a program of the system, with its links resolved.
func loaderOf(t *testing.T, program string) string {
	t.Helper()
	file, err := os.Open(program)
	if err != nil {
		t.Skip(err)
	}
	defer file.Close()
	interpreter, err := floor.InterpreterOf(file)
	if err != nil || interpreter.Path == "" {
		t.Skipf("%s has no loader here", program)
	}
	loader, err := filepath.EvalSymlinks(interpreter.Path)
	if err != nil {
		t.Skip(err)
	}
	return loader
}

// realPath is where a program of the system lies.
func realPath(t *testing.T, program string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(program)
	if err != nil {
		t.Skip(err)
	}
	return real
}

// TestMappedPrograms: what may not be executed is not executed by the loader either, nor loaded into what may.
func TestMappedPrograms(t *testing.T) {
	loader, granted, other := loaderOf(t, "/usr/bin/true"), realPath(t, "/usr/bin/true"), realPath(t, "/usr/bin/id")
	libraries, err := filepath.Glob(filepath.Join(filepath.Dir(loader), "libm.so.6"))
	if err != nil || len(libraries) == 0 {
		t.Skip("no library beside the loader to make a copy of")
	}
	library, err := os.ReadFile(libraries[0])
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/r/**, FOLDER/w/**, FOLDER/x/**]
  write: [FOLDER/w/**, FOLDER/x/**]
  exec: [SELF, FOLDER/x/**, `+loader+`, `+granted+`]
`)
		for name, content := range map[string][]byte{
			"r/lib.so": library, "r/lib.so.6": library, "r/addon.node": library, "r/data": library, "r/program": program,
			"w/lib.so": library, "w/program": program, "w/plain": program, "x/lib.so": library, "x/program": program, "no/lib.so": library,
		} {
			a.write(name, string(content))
		}
		for _, name := range []string{"r/lib.so", "r/lib.so.6", "r/addon.node", "r/program", "w/program", "x/program"} {
			a.must(os.Chmod(filepath.Join(a.folder, name), 0o755))
		}
		a.probeTable([]conformance{
			{"the loader and a granted program", action{"exec", loader, granted}, "ok", ""},
			{"the loader and one that is not", action{"exec", loader, other}, "exit 127", "map-exec " + other},
			{"the loader and a copy", action{"exec", loader, "FOLDER/w/program"}, "exit 127", "map-exec w/program"},
			{"the loader and a copy that is no program", action{"exec", loader, "FOLDER/w/plain"}, "exit 127", "map-exec w/plain"},
			{"the loader and a copy that an exec rule grants", action{"exec", loader, "FOLDER/x/program"}, "ok", ""},
			{"the loader and a program in memory", action{"load-memory", loader, other}, "exit 127", "map-exec /memfd:program (deleted)"},
			{"a library of the agent's own", action{"preload", "FOLDER/w/lib.so", granted}, "EACCES", "map-exec w/lib.so"},
			{"a library that is not its own", action{"preload", "FOLDER/r/lib.so", granted}, "ok", ""},
			{"a library that an exec rule grants", action{"preload", "FOLDER/x/lib.so", granted}, "ok", ""},
			{"a library that may not be read", action{"preload", "FOLDER/no/lib.so", granted}, "EACCES", "open-read no/lib.so"},
			{"a library with a version", action{"map", "FOLDER/r/lib.so.6", "private"}, "ok", ""},
			{"an addon", action{"map", "FOLDER/r/addon.node", "private"}, "ok", ""},
			{"what is marked as no program", action{"map", "FOLDER/r/data", "private"}, "ok", ""},
			{"what is marked as a program", action{"map", "FOLDER/r/program", "private"}, "EACCES", "map-exec r/program"},
			{"as shared memory", action{"map", "FOLDER/r/program", "shared"}, "EACCES", "map-exec r/program"},
			{"memory for a compiler at run time", action{"map-memory", "shared"}, "ok", ""},
			{"memory for a loader", action{"map-memory", "private"}, "EACCES", "map-exec /memfd:code (deleted)"},
			{"anonymous memory", action{"map-anonymous"}, "ok", ""},
			{"no such descriptor", action{"call", mmapNumber(t), "0", "4096", "5", "2", "99", "0"}, "EBADF", ""},
		})
	})
}

func mmapNumber(t *testing.T) string {
	number, _ := syscallNumber(t, floor.MapCall)
	return number
}

// TestProgramsByHash: what the policy fixes the content of is executed with that content only, and never written.
func TestProgramsByHash(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, "mode: enforce\n")
		raw, err := os.ReadFile(a.self)
		a.must(err)
		sum := sha256.Sum256(raw)
		right, wrong := hex.EncodeToString(sum[:]), strings.Repeat("0", 64)
		fixed := func(name, sum string) string { return fmt.Sprintf("{path: FOLDER/%s, sha256: %s}", name, sum) }
		a.write("policy.yaml", a.expand(fmt.Sprintf(`
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [SELF, FOLDER/bin/**, %s]
`, strings.Join([]string{fixed("bin/right", right), fixed("bin/wrong", wrong), fixed("w/deep/right", right), fixed("one/right", right),
			fixed("one/wrong", wrong), fixed("one/link", wrong), fixed("one/missing", wrong)}, ", "))))
		for _, name := range []string{"bin/right", "bin/wrong", "bin/free", "bin/of-link", "w/deep/right", "w/beside", "one/right", "one/wrong", "one/aside"} {
			a.must(os.Chmod(a.write(name, string(raw)), 0o755))
		}
		a.must(os.Symlink("../bin/of-link", filepath.Join(a.folder, "one/link")))
		run := func(name string) action { return action{"exec", "FOLDER/" + name, roleProbe, "exit"} }
		a.probeTable([]conformance{
			{"its content", run("one/right"), "ok", ""},
			{"again", run("one/right"), "ok", ""},
			{"another content", run("one/wrong"), "EACCES", "exec one/wrong"},
			{"in a tree that is granted", run("bin/right"), "ok", ""},
			{"another content there", run("bin/wrong"), "EACCES", "exec bin/wrong"},
			{"beside it", run("bin/free"), "ok", ""},
			{"what a link leads to", run("bin/of-link"), "EACCES", "exec bin/of-link"},
			{"through the link", run("one/link"), "EACCES", "exec bin/of-link"},
			{"what no rule names", run("one/aside"), "EACCES", "exec one/aside"},
			{"where the agent may write", run("w/deep/right"), "ok", ""},
			{"write it", action{"open", "FOLDER/w/deep/right", "w"}, "EACCES", "open-write w/deep/right"},
			{"cut it", action{"truncate", "FOLDER/w/deep/right"}, "EACCES", "truncate w/deep/right"},
			{"remove it", action{"unlink", "FOLDER/w/deep/right"}, "EACCES", "unlink w/deep/right"},
			{"put another in its place", action{"rename", "FOLDER/w/beside", "FOLDER/w/deep/right"}, "EACCES", "rename w/deep/right"},
			{"move it away", action{"rename", "FOLDER/w/deep/right", "FOLDER/w/away"}, "EACCES", "rename w/deep/right"},
			{"move what it lies in", action{"rename", "FOLDER/w/deep", "FOLDER/w/away"}, "EXDEV", "rename w/deep"},
			{"a second name to write through", action{"link", "FOLDER/w/deep/right", "FOLDER/w/name"}, "EXDEV", "link w/deep/right"},
			{"change its mode", action{"chmod", "FOLDER/w/deep/right", "0700"}, "EACCES", "chmod w/deep/right"},
			{"write beside it", action{"put", "FOLDER/w/deep/new", "w,creat", "x"}, "ok", ""},
		})
		if _, stderr, code := a.run(filepath.Join(a.folder, "one/wrong"), roleProbe, "exit"); code != CodeNotExecutable {
			t.Errorf("a run of a program with another content ended with %d: %s", code, stderr)
		}
	})
}

// TestProgramChangesLater: a program whose content the host changes while the agent runs is looked at again.
func TestProgramChangesLater(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, "mode: enforce\n")
		raw, err := os.ReadFile(a.self)
		a.must(err)
		sum := sha256.Sum256(raw)
		program := a.write("bin/program", string(raw))
		a.must(os.Chmod(program, 0o755))
		a.write("policy.yaml", a.expand(fmt.Sprintf(
			"mode: enforce\nfilesystem: {read: [LIBRARIES, SELF], exec: [SELF, FOLDER/bin/**, {path: FOLDER/bin/program, sha256: %x}]}\n", sum)))
		ask, end := a.converse()
		defer end()
		run := "exec " + program + " " + roleProbe + " exit"
		if got := ask(run); got != "ok" {
			t.Errorf("its content: %s", got)
		}
		a.must(os.WriteFile(program, append(raw, 'x'), 0o755))
		if got := ask(run); got != "EACCES" {
			t.Errorf("another content: %s", got)
		}
		a.must(os.WriteFile(program, raw, 0o755))
		if got := ask(run); got != "ok" {
			t.Errorf("its content again: %s", got)
		}
	})
}

// converse starts a probe that does one action for each question.
func (a *agent) converse() (ask func(words string) string, end func()) {
	cmd := a.command(a.self, roleProbe+"-lines")
	in, err := cmd.StdinPipe()
	a.must(err)
	out, err := cmd.StdoutPipe()
	a.must(err)
	a.must(cmd.Start())
	lines := bufio.NewScanner(out)
	ask = func(words string) string {
		a.t.Helper()
		fmt.Fprintln(in, words)
		if !lines.Scan() {
			a.t.Fatalf("%s: the agent ended", words)
		}
		return lines.Text()
	}
	return ask, func() {
		cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestKillBeforeEffect: on_violation: kill ends the process before the refused call has any effect, and it does nothing after it.
func TestKillBeforeEffect(t *testing.T) {
	loader, other := loaderOf(t, "/usr/bin/true"), realPath(t, "/usr/bin/id")
	asUsers(t, func(t *testing.T, uid int) {
		for _, violation := range []action{
			{"mkdir", "FOLDER/w/made"}, // by name
			{"mkdir", "FOLDER/no/made"},
			{"put", "FOLDER/no/made", "w,creat", "x"},
			{"unlink", "FOLDER/no/kept"},
			{"truncate", "FOLDER/no/kept"},
			{"chmod", "FOLDER/no/kept", "0600"},
			{"rename", "FOLDER/no/kept", "FOLDER/w/made"},
			{"link", "FOLDER/no/kept", "FOLDER/w/made"},
			{"mkdevice", "FOLDER/w/made"},
			{"map", other, "private"},
			{"socket", "17", "3", "0"}, // AF_PACKET
		} {
			t.Run(strings.Join(violation, " "), func(t *testing.T) {
				a := newAgent(t, uid, `
mode: enforce
on_violation: kill
filesystem:
  read: [LIBRARIES, SELF, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [SELF, `+loader+`]
syscalls: {mkdir: deny, mkdirat: deny}
`)
				a.mkdir("w")
				kept := a.write("no/kept", "text")
				for i := range violation {
					violation[i] = a.expand(violation[i])
				}
				actions, err := json.Marshal([]action{{"put", a.folder + "/w/before", "w,creat", "x"}, violation, {"put", a.folder + "/w/after", "w,creat", "x"}})
				a.must(err)
				cmd := a.command(a.self, roleProbe)
				cmd.Stdin = bytes.NewReader(actions)
				var said bytes.Buffer
				cmd.Stderr = &said
				_ = cmd.Run()
				a.waitForWarden()
				if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGKILL {
					t.Errorf("it ended with %v, want it killed\n%s", cmd.ProcessState, said.String())
				}
				for name, want := range map[string]bool{"w/before": true, "w/after": false, "w/made": false, "no/made": false} {
					if _, err := os.Lstat(filepath.Join(a.folder, name)); (err == nil) != want {
						t.Errorf("%s is there: %v, want %v", name, err == nil, want)
					}
				}
				info, err := os.Stat(kept)
				if err != nil || info.Size() != 4 || info.Mode().Perm() != 0o644 {
					t.Errorf("what it may not change: %v, %v", info, err)
				}
			})
		}
	})
}

// TestLoggedCalls: a call that is logged by name is refused no more and no less than without.
func TestLoggedCalls(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy+"syscalls: {ioctl: log, socket: log, clone: log, prctl: log, mmap: log, personality: log}\n")
		bypassFiles(a)
		prctl, _ := syscallNumber(t, "prctl")
		personality, _ := syscallNumber(t, "personality")
		results := a.probe([]action{
			{"socket", "1", "1", "0"}, {"socket", "17", "3", "0"}, {"ioctl", "0x5412"}, {"map-anonymous"},
			{"call", prctl, "4", "0"}, {"call", personality, "0xffffffff"}, {"call", personality, "0x400000"}, {"exec", a.self, roleProbe, "exit"},
		})
		want := []string{"ok", "EPERM", "EPERM", "ok", "EPERM", "ok", "EPERM", "ok"}
		for i, result := range results {
			if result != want[i] {
				t.Errorf("call %d answered %s, want %s", i, result, want[i])
			}
		}
	})
}
