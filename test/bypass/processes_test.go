package bypass

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFirstInstruction: what a program does first is decided like everything after it; every run, and every child's first call.
func TestFirstInstruction(t *testing.T) {
	asUsers(t, func(w *world) {
		for range 10 {
			a := w.prepare(narrow, w.program, "open", w.path("no/file"), "r")
			out, _ := a.Cmd.Output()
			if strings.TrimSpace(string(out)) != "EACCES" {
				w.t.Fatalf("the first call answered %q\n%s", out, a.Said())
			}
		}
		w.expect(narrow, "in-child open FOLDER/no/file r => EACCES", "in-child in-child open FOLDER/no/file r => EACCES", "clone-parent FOLDER/no/file => EACCES",
			"clone-parent FOLDER/r/file")
	})
}

// TestFilters: filters of its own lift nothing, and the agent cannot answer its own calls.
func TestFilters(t *testing.T) {
	asUsers(t, func(w *world) {
		w.expect(narrow, "in-child own-filter FOLDER/no/file => EACCES", "in-child own-filter FOLDER/r/file", "in-child own-listener => EBUSY")
	})
}

// TestOtherCalls: the calls of other architectures are not there.
func TestOtherCalls(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("int 0x80 and x32 are of amd64")
	}
	asUsers(t, func(w *world) {
		w.expect(narrow, "call 0x40000027 => ENOSYS", "call 0x40000101 -100 0 0 => ENOSYS", "raw io_uring_setup 8 z:120 => ENOSYS", "raw clone3 z:88 88 => ENOSYS")
		if err := exec.Command(w.program, "i386").Run(); err != nil {
			w.t.Logf("this kernel runs no i386 calls (%v)", err)
			return
		}
		a := w.prepare(narrow, w.program, "i386")
		_ = a.Cmd.Run()
		if status, ok := a.Cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != unix.SIGSYS {
			w.t.Errorf("an i386 call ended with %v, want it killed by SIGSYS", a.Cmd.ProcessState)
		}
	})
}

// TestOwnMemory: the memory of other processes, its own by /proc and its children's is not written past the calls that the guard sees.
func TestOwnMemory(t *testing.T) {
	asUsers(t, func(w *world) {
		victim := w.sleeper().Process.Pid
		w.expect(everything,
			"open /proc/self/mem w => EACCES", "open /proc/thread-self/mem w => EACCES",
			fmt.Sprintf("open /proc/%d/mem r => EACCES", victim), fmt.Sprintf("open /proc/%d/mem w => EACCES", victim),
			fmt.Sprintf("open /proc/%d/fd/0 r => EACCES", victim), fmt.Sprintf("open /proc/%d/root/etc/passwd r => EACCES", victim),
			fmt.Sprintf("open /proc/%d/cwd r => EACCES", victim), fmt.Sprintf("open /proc/%d/environ r => EACCES", victim),
			fmt.Sprintf("raw ptrace 0x4206 %d => EPERM", victim), fmt.Sprintf("raw process_vm_readv %d 0 0 0 0 0 => EPERM", victim),
			fmt.Sprintf("kill %d 9 => EPERM", victim),
		)
		if status := fileOf(victim, "status"); !strings.Contains(status, "TracerPid:\t0") {
			w.t.Errorf("the victim: %s", status)
		}
	})
}

// TestDoneOnce: calls that a timer interrupts all the time are done exactly once.
func TestDoneOnce(t *testing.T) {
	asUsers(t, func(w *world) {
		w.expect(narrow, "interrupted FOLDER/w")
	})
}

// TestExhaustion: floods from many threads, pipes that nobody reads and a full table of descriptors neither open anything nor take
// the warden away; it stays small.
func TestExhaustion(t *testing.T) {
	asUsers(t, func(w *world) {
		r := w.reside(narrow)
		warden := r.warden()
		for _, one := range []string{"flood FOLDER/r/file FOLDER/no/file", "flood-pipes FOLDER/w FOLDER/r/file", "in-child limit-opens FOLDER/g/a.txt => EMFILE",
			"in-child limit-opens FOLDER/no/file => EACCES|EMFILE"} {
			r.expect(one)
		}
		r.expect("open FOLDER/no/file r => EACCES")
		r.expect("open FOLDER/g/a.txt r")
		var peak int
		for line := range strings.Lines(fileOf(warden, "status")) {
			if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				_, _ = fmt.Sscan(value, &peak)
			}
		}
		if peak == 0 || peak > 128<<10 {
			w.t.Errorf("the warden took %d KiB", peak)
		}
		r.end()
		w.unchanged()
	})
}
