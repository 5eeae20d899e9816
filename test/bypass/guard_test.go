package bypass

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/test/governed"
)

// cgroup2 is where cgroup2 is mounted.
func cgroup2(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Skip("no cgroup2 here to escape to")
	return ""
}

// TestLeavingTheCgroup: no agent leaves its cgroup, root neither, whatever its policy grants.
func TestLeavingTheCgroup(t *testing.T) {
	mount := cgroup2(t)
	asUsers(t, func(w *world) {
		r := w.reside(everything)
		before := fileOf(r.pid(), "cgroup")
		own := mount + strings.TrimSpace(before[strings.Index(before, "0::")+3:])
		for _, target := range []string{mount, own, filepath.Dir(own)} {
			r.expect("open " + target + "/cgroup.procs w => EACCES")
			r.expect("open /proc/self/root" + target + "/cgroup.procs w => EACCES")
			r.expect("open " + target + "/cgroup.threads w => EACCES")
			if target != mount { // the first one has no such files
				r.expect("open " + target + "/cgroup.freeze w => EACCES")
				r.expect("open " + target + "/cgroup.kill w => EACCES")
			}
			r.expect("mkdir " + target + "/escaped => EACCES")
			r.expect("chmod " + target + "/cgroup.procs 0666 => EACCES")
			r.expect("reopen " + target + "/cgroup.procs w => EACCES")
		}
		r.expect("rmdir " + own + " => EACCES")
		r.expect("rename " + own + " " + mount + "/escaped => EACCES")
		r.expect("raw mount s:none s:" + w.folder + " s:cgroup2 0 0 => EPERM")
		r.expect("raw unshare 0x2000000 => EPERM")
		r.expect("raw setns 0 0x2000000 => EPERM")
		if after := fileOf(r.pid(), "cgroup"); after != before {
			w.t.Errorf("it was in %s and is in %s", before, after)
		}
		if _, err := os.Stat(mount + "/escaped"); err == nil {
			w.t.Error("it made a cgroup")
		}
		r.end()
	})
}

// TestHarmingTheWarden: the warden cannot be stopped, starved, looked into or frozen.
func TestHarmingTheWarden(t *testing.T) {
	asUsers(t, func(w *world) {
		r := w.reside(everything)
		for _, pid := range append([]int{r.warden()}, w.Pair.Processes()...) {
			before := fileOf(pid, "limits") + fileOf(pid, "oom_score_adj")
			for _, one := range []string{"kill %d 9 => EPERM", "kill %d 19 => EPERM", "raw tkill %d 9 => EPERM", "raw ptrace 16 %d => EPERM", "raw ptrace 0x4206 %d => EPERM",
				"raw prlimit64 %d 0 z:16 0 => EPERM", "raw setpriority 0 %d 19 => EPERM", "raw sched_setscheduler %d 5 z:8 => EPERM",
				"raw process_vm_writev %d 0 0 0 0 0 => EPERM", "open /proc/%d/mem r => EACCES", "open /proc/%d/mem w => EACCES", "open /proc/%d/oom_score_adj w => EACCES",
				"open /proc/%d/environ r => EACCES", "open /proc/%d/fd/0 r => EACCES", "open /proc/%d/root/etc r => EACCES"} {
				r.expect(fmt.Sprintf(one, pid))
			}
			if after := fileOf(pid, "limits") + fileOf(pid, "oom_score_adj"); after != before {
				w.t.Errorf("process %d: limits were %s and are %s", pid, before, after)
			}
			if status := fileOf(pid, "status"); !strings.Contains(status, "TracerPid:\t0") || strings.Contains(status, "State:\tT") {
				w.t.Errorf("process %d: %s", pid, status)
			}
		}
		victim := w.sleeper().Process.Pid
		r.do("raw kill -1 19") // the kernel answers as if it had done something
		for _, pid := range append([]int{r.warden(), victim}, w.Pair.Processes()...) {
			if strings.Contains(fileOf(pid, "status"), "State:\tT") {
				w.t.Errorf("process %d was stopped", pid)
			}
		}
		r.end()
	})
}

// TestOperatorsSockets: no rule opens the sockets through which raypherd and the enclave are operated.
func TestOperatorsSockets(t *testing.T) {
	asUsers(t, func(w *world) {
		paths, err := instance.At(w.Pair.Run, w.Pair.State)
		w.must(err)
		var lines []string
		for _, socket := range []string{paths.Socket, paths.Relay, filepath.Join(w.Pair.Run, "enclave", "enclave.sock")} {
			for _, action := range []string{"connect", "connect-packet", "connect-datagram"} {
				lines = append(lines, action+" "+socket+" => EACCES", action+" /proc/self/root"+socket+" => EACCES")
			}
			// To users the kernel itself refuses links to what is not theirs, before a hook is asked.
			lines = append(lines, "unlink "+socket+" => EACCES", "link "+socket+" FOLDER/w/socket => EXDEV|EPERM", "rename "+socket+" FOLDER/w/socket => EACCES")
		}
		for i := range lines { // the enclave's socket is in a folder of its own user
			if strings.Contains(lines[i], "/enclave/") {
				lines[i] = strings.Replace(lines[i], "EXDEV|EPERM", "EACCES", 1)
			}
		}
		w.expect(everything, lines...)
		for _, socket := range []string{paths.Socket, paths.Relay} {
			if info, err := os.Lstat(socket); err != nil || info.Mode()&os.ModeSocket == 0 {
				w.t.Errorf("%s: %v, %v", socket, info, err)
			}
		}
	})
}

// TestTouchingTheGuard: pins, state, folders and what they lie in cannot be read, changed, renamed away or replaced.
func TestTouchingTheGuard(t *testing.T) {
	asUsers(t, func(w *world) {
		paths, err := instance.At(w.Pair.Run, w.Pair.State)
		w.must(err)
		root := filepath.Dir(w.Pair.State)
		var lines []string
		for _, folder := range []string{w.Pair.State, w.Pair.Run} {
			lines = append(lines,
				"open "+folder+" r,dir => EACCES", "open "+folder+"/forged w,creat => EACCES", "mkdir "+folder+"/forged => EACCES", "rename "+folder+" FOLDER/w/moved => EACCES",
				"rename "+folder+" "+folder+"2 => EACCES", "exchange "+folder+" FOLDER/w => EACCES", "chmod "+folder+" 0777 => EACCES", "rmdir "+folder+" => EACCES")
		}
		lines = append(lines, "rename "+root+" "+root+"-moved => EXDEV|EACCES")
		if w.uid == 0 {
			lines = append(lines, "open "+paths.Pins+" r,dir => EACCES", "mkdir "+paths.Pins+"/mine => EACCES", "rmdir "+paths.Pins+" => EACCES", "raw bpf 5 z:128 128 => EPERM",
				"mkdir /etc/raypher => EACCES")
			for _, name := range []string{"raypher", "raypher-cli", "raypherd", "raypher-enclave"} {
				program := filepath.Join(governed.Programs, name) // of what runs the kernel says so, before a hook is asked
				lines = append(lines, "open "+program+" w => EACCES|ETXTBSY", "unlink "+program+" => EACCES", "rename "+program+" "+program+"2 => EACCES",
					"rename FOLDER/w/file "+program+" => EACCES", "chmod "+program+" 0777 => EACCES", "link "+program+" FOLDER/w/"+name+" => EXDEV")
			}
			lines = append(lines, "rename "+governed.Programs+" "+governed.Programs+"2 => EXDEV|EACCES")
		}
		w.expect(everything, lines...)
		var st unix.Stat_t
		for _, path := range []string{w.Pair.State, w.Pair.Run, root} {
			w.must(unix.Lstat(path, &st))
		}
	})
}
