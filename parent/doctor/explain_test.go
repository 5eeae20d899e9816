package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/parent/guard/lsm/probe"
)

func TestExplain(t *testing.T) {
	path := func(p string, err error) error { return &fs.PathError{Op: "open", Path: p, Err: err} }
	tests := []struct {
		name string
		err  error
		want string // empty: nothing to add
	}{
		{"nil", nil, ""},
		{"unknown", errors.New("something else"), ""},
		{"no BTF", fmt.Errorf("load: %w", fmt.Errorf("no BTF found for kernel version 6.1: %w", ebpf.ErrNotSupported)), "CONFIG_DEBUG_INFO_BTF"},
		{"no BTF file", path("/sys/kernel/btf/vmlinux", syscall.ENOENT), "CONFIG_DEBUG_INFO_BTF"},
		{"no tracefs", errors.New("neither debugfs nor tracefs are mounted"), "mount -t tracefs"},
		{"no tracefs file", path("/sys/kernel/tracing/events", syscall.ENOENT), "mount -t tracefs"},
		{"no debugfs file", path("/sys/kernel/debug/tracing", syscall.ENOENT), "mount -t debugfs"},
		{"no bpffs", path("/sys/fs/bpf/raypher", syscall.ENOENT), "mount -t bpf bpf /sys/fs/bpf"},
		{"EPERM on load", fmt.Errorf("program connect4: load program: %w (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", syscall.EPERM), "refused to load or attach a program (EPERM)"},
		{"EPERM of a file is not EPERM on load", path("/etc/shadow", syscall.EPERM), ""},
		{"EPERM of a program file is not EPERM on load", path("/opt/program", syscall.EPERM), ""},
		{"verifier", fmt.Errorf("program x: %w", &ebpf.VerifierError{Cause: syscall.EACCES, Log: []string{"invalid"}}), "verifier refused"},
		{"table full", fmt.Errorf("update: %w", syscall.E2BIG), "table of the guard is full"},
		{"LPM table full", fmt.Errorf("update: %w", syscall.ENOSPC), "table of the guard is full"},
		{"disk full", path("/var/lib/raypher/journal/1", syscall.ENOSPC), "disk is full"},
		{"no memory", fmt.Errorf("map creation: %w", syscall.ENOMEM), "RLIMIT_MEMLOCK"},
		{"no descriptors", path("/x", syscall.EMFILE), "LimitNOFILE"},
		{"old pins", fmt.Errorf("map x: %w", ebpf.ErrMapIncompatible), "another version"},
		{"missing program type", fmt.Errorf("program x: %w", ebpf.ErrNotSupported), "lacks a kind of program"},
		{"daemon late", status.Error(codes.DeadlineExceeded, "context deadline exceeded"), "did not answer in time"},
		{"daemon absent", status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial unix /run/raypher/raypherd.sock: connect: no such file or directory"`), "raypherd is not running"},
		{"daemon forbidden", status.Error(codes.Unavailable, `dial unix /run/raypher/raypherd.sock: connect: permission denied`), "usermod -aG raypher"},
		{"ring buffer full", fmt.Errorf("events: %w", RingBufferFull(7)), "7 events were not recorded"},
		{"clock skew", ClockSkew("the enclave", -90*time.Second), "the enclave are 1m30s apart"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Explain(tt.err)
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHintKeepsTheCause(t *testing.T) {
	err := fmt.Errorf("arm: %w", NotMounted("bpf", syscall.ENOSPC))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs and tables")
	}
}

// The words must fit what this kernel and this version of cilium/ebpf really say.
func TestExplainRealErrors(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		_, err := net.Dial("unix", filepath.Join(t.TempDir(), "raypherd.sock"))
		if got := Explain(err); !strings.Contains(got, "raypherd is not running") {
			t.Errorf("%v explained as %q", err, got)
		}
	})
	for _, kind := range []ebpf.MapType{ebpf.Hash, ebpf.LPMTrie} {
		t.Run("full "+kind.String(), func(t *testing.T) {
			needRoot(t)
			spec := &ebpf.MapSpec{Type: kind, KeySize: 8, ValueSize: 4, MaxEntries: 1}
			if kind == ebpf.LPMTrie {
				spec.Flags = 1 // BPF_F_NO_PREALLOC, which the kernel demands for this type
			}
			m, err := ebpf.NewMap(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			key := func(last byte) []byte { return []byte{32, 0, 0, 0, 10, 0, 0, last} }
			if err := m.Put(key(1), uint32(1)); err != nil {
				t.Fatal(err)
			}
			err = m.Put(key(2), uint32(1))
			if got := Explain(err); !strings.Contains(got, "is full") {
				t.Errorf("%v explained as %q", err, got)
			}
		})
	}
	t.Run("verifier", func(t *testing.T) {
		needRoot(t)
		_, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSKB, License: "GPL", Instructions: asm.Instructions{
			asm.LoadMem(asm.R0, asm.R1, 4000, asm.Word), // beyond the context
			asm.Return(),
		}})
		if got := Explain(err); !strings.Contains(got, "verifier refused") {
			t.Errorf("%v explained as %q", err, got)
		}
	})
	t.Run("lsm program", func(t *testing.T) {
		needRoot(t)
		_, err := probe.Try(nil)
		if !errors.Is(err, syscall.EPERM) {
			t.Skip("this kernel takes lsm programs, so there is no EPERM to explain")
		}
		if got := Explain(err); !strings.Contains(got, "EPERM") {
			t.Errorf("%v explained as %q", err, got)
		}
	})
}
