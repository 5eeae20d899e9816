package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoCgroup2 says that this host has no cgroup2 hierarchy mounted.
var ErrNoCgroup2 = errors.New("no cgroup2 file system is mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified` or boot with systemd.unified_cgroup_hierarchy=1; " +
	"`ip netns exec` hides it: enter a network namespace with `nsenter --net=/run/netns/NAME`")

// Mounts says where the cgroup hierarchies of this host are mounted.
type Mounts struct {
	Unified     string // mount point of cgroup2
	UnifiedRoot string // the cgroup that lies at the mount point, as /proc/<pid>/cgroup spells it
	Memory      string // mount point of the v1 memory controller, empty: none
	Pids        string // mount point of the v1 pids controller, empty: none
}

// FindMounts reads /proc/self/mountinfo.
func FindMounts() (Mounts, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Mounts{}, fmt.Errorf("looking for cgroup2: %w", err)
	}
	defer f.Close()
	return ParseMounts(f)
}

// ParseMounts reads the format of proc_pid_mountinfo(5). Of several mounts of a hierarchy the first one counts. The error
// is ErrNoCgroup2 when there is no cgroup2.
func ParseMounts(r io.Reader) (Mounts, error) {
	var m Mounts
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(place) < 5 || len(kind) < 3 {
			continue
		}
		root, point := unescape(place[3]), unescape(place[4])
		options := strings.Split(kind[2], ",")
		switch {
		case kind[0] == "cgroup2" && m.Unified == "":
			m.Unified, m.UnifiedRoot = point, root
		case kind[0] == "cgroup" && m.Memory == "" && slices.Contains(options, "memory"):
			m.Memory = point
		case kind[0] == "cgroup" && m.Pids == "" && slices.Contains(options, "pids"):
			m.Pids = point
		}
	}
	if err := lines.Err(); err != nil {
		return Mounts{}, fmt.Errorf("looking for cgroup2: %w", err)
	}
	if m.Unified == "" {
		return Mounts{}, ErrNoCgroup2
	}
	return m, nil
}

// unescape undoes the octal escapes of fs/proc_namespace.c (mangle).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Of returns the cgroup2 path of a process as the kernel names it, for instance `/raypher/3f2a`, relative to the reader's
// cgroup namespace. The caller holds the process by a pidfd and checks after the call that it still lives.
func Of(pid int) (string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	path, err := Parse(string(content))
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return path, nil
}

// Parse finds the cgroup2 path in the content of /proc/<pid>/cgroup. The error wraps ErrNoCgroup2 when there is none.
func Parse(content string) (string, error) {
	for line := range strings.Lines(content) {
		// The cgroup2 line has the hierarchy number 0 and no controllers (cgroups(7)).
		if path, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "0::"); ok {
			return filepath.Clean(path), nil
		}
	}
	return "", fmt.Errorf("no cgroup2 line: %w", ErrNoCgroup2)
}
