package floor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mount is one line of /proc/self/mountinfo (Documentation/filesystems/proc.rst, 3.5).
type mount struct {
	device string // major:minor
	root   string // what of the file system is mounted
	point  string // where
	kind   string // type of the file system
}

// kernelKinds are the file systems whose files are switches of the kernel. uid 0 owns files there that lead out of the guard
// (cgroup.procs, core_pattern, BPF pins, tracing), wherever such a file system is mounted.
var kernelKinds = []string{
	"binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "efivarfs", "fusectl", "nfsd", "proc", "pstore", "resctrl",
	"rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs", "xenfs",
}

// Mounts is what was mounted in this process's namespace when it was read.
type Mounts []mount

// ReadMounts reads /proc/self/mountinfo.
func ReadMounts() (Mounts, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look at the mounts: %w", err)
	}
	return parseMounts(string(raw)), nil
}

// parseMounts reads mountinfo. A line that it does not understand is left out; the kernel writes none.
func parseMounts(raw string) Mounts {
	var all Mounts
	for line := range strings.Lines(raw) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(kind) == 0 {
			continue
		}
		all = append(all, mount{device: fields[2], root: unescape(fields[3]), point: unescape(fields[4]), kind: kind[0]})
	}
	return all
}

// unescape puts back the blanks and backslashes that the kernel writes as three octal digits (fs/seq_file.c, mangle_path).
func unescape(field string) string {
	if !strings.Contains(field, `\`) {
		return field
	}
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+3 < len(field) {
			if code, err := strconv.ParseUint(field[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		b.WriteByte(field[i])
	}
	return b.String()
}

// Kernel are the mount points of file systems whose files are switches of the kernel, but for those of a kind in except.
func (all Mounts) Kernel(except ...string) []string {
	var points []string
	for _, m := range all {
		if slices.Contains(kernelKinds, m.kind) && !slices.Contains(except, m.kind) {
			points = append(points, m.point)
		}
	}
	return points
}

// Everywhere returns all names of the paths, sorted: with links followed, and through every other mount of the same file
// system. What is not absolute names nothing and is left out.
func (all Mounts) Everywhere(paths []string) []string {
	var names []string
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			continue
		}
		names = append(names, path)
		if real, ok := followLinks(path, func(string) bool { return false }); ok {
			path = real
		}
		names = append(names, path)
		names = append(names, otherNames(all, path)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// otherNames are where a path without links also appears because its file system, or a part of it, is mounted elsewhere.
func otherNames(mounts Mounts, path string) []string {
	own := -1
	for i, m := range mounts { // of two mounts at one point the later lies on top
		if within(path, m.point) && (own < 0 || len(m.point) >= len(mounts[own].point)) {
			own = i
		}
	}
	if own < 0 {
		return nil
	}
	inside := filepath.Join(mounts[own].root, strings.TrimPrefix(path, mounts[own].point))
	var names []string
	for i, m := range mounts {
		switch {
		case i == own || m.device != mounts[own].device:
		case within(inside, m.root):
			names = append(names, filepath.Join(m.point, strings.TrimPrefix(inside, m.root)))
		case within(m.root, inside):
			names = append(names, m.point)
		}
	}
	return names
}

// blockDevices are the device files of disks: who writes one writes every file on it. They are known by what the kernel lists.
func blockDevices() []string {
	entries, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil // no sysfs
	}
	paths := make([]string, 0, len(entries))
	for _, entry := range entries {
		paths = append(paths, "/dev/"+strings.ReplaceAll(entry.Name(), "!", "/")) // Documentation/ABI/stable/sysfs-block
	}
	return paths
}
