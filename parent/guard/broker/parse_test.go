package broker

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

func TestEveryFileCallHasAHandler(t *testing.T) {
	for _, name := range append([]string{"memfd_create", "connect"}, floor.FileCalls...) {
		if handlers[name] == nil {
			t.Errorf("%s is notified and not handled", name)
		}
	}
}

func TestSplitLast(t *testing.T) {
	for path, want := range map[string][2]string{
		"/a/b": {"/a", "b"}, "/a": {"/", "a"}, "a": {".", "a"}, "a/b/": {"a", "b/"}, "//a": {"/", "a"}, "/": {".", "/"},
		"a//b": {"a/", "b"}, "./..": {".", ".."}, "/a/b//": {"/a", "b//"},
	} {
		above, name := splitLast(path)
		if above != want[0] || name != want[1] {
			t.Errorf("splitLast(%q) = %q, %q; want %q", path, above, name, want)
		}
	}
}

func FuzzSplitLast(f *testing.F) {
	for _, seed := range []string{"/a/b", "a", "//", "a/./..//", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		above, name := splitLast(path)
		if above == "" {
			t.Errorf("%q: nothing above", path)
		}
		if strings.Contains(strings.TrimRight(name, "/"), "/") {
			t.Errorf("%q: %q is no last component", path, name)
		}
		if strings.HasPrefix(path, "/") != strings.HasPrefix(above, "/") && strings.Trim(path, "/") != "" {
			t.Errorf("%q: starts elsewhere than %q", path, above)
		}
	})
}

func TestParseAddress(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want unixAddress
		ok   bool
	}{
		{"\x01\x00/run/x\x00rest", unixAddress{path: "/run/x"}, true},
		{"\x01\x00/run/x", unixAddress{path: "/run/x"}, true},
		{"\x01\x00\x00name", unixAddress{abstract: "name"}, true},
		{"\x01\x00", unixAddress{}, false},
		{"\x02\x00\x00\x50\x7f\x00\x00\x01", unixAddress{}, false},
		{"", unixAddress{}, false},
	} {
		if got, ok := parseAddress([]byte(tt.raw)); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %+v, %v", tt.raw, got, ok)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add([]byte("\x01\x00/run/x\x00"))
	f.Add([]byte("\x01\x00\x00x"))
	f.Add([]byte("\x02\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		address, ok := parseAddress(raw)
		if strings.Contains(address.path, "\x00") || !ok && address != (unixAddress{}) {
			t.Errorf("%q: %+v, %v", raw, address, ok)
		}
	})
}

func FuzzParseInternet(f *testing.F) {
	for _, seed := range []string{
		"\x02\x00\x00\x50\x7f\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", "\x02\x00\x00\x50\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x0a\x00\x01\xbb\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01", "\x0a\x00" + strings.Repeat("\x00", 26), "\x02\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		to, ok := parseInternet(raw)
		if !ok {
			return
		}
		if to.Addr().IsUnspecified() || to.Addr().Is4In6() {
			t.Errorf("%x: %s is not the address that is reached", raw, to)
		}
		if family := raw[0]; raw[1] != 0 || family != unix.AF_INET && family != unix.AF_INET6 {
			t.Errorf("%x: %s of another family", raw, to)
		}
	})
}

// FuzzText: a string is read up to its zero byte and not beyond: what comes after it may be missing.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"\x00", "/a\x00", "/a\x00rest", "", "/never", strings.Repeat("x", 255) + "\x00", strings.Repeat("x", 256) + "\x00",
		strings.Repeat("x", 4095) + "\x00", strings.Repeat("x", 4096), strings.Repeat("x", 5000) + "\x00"} {
		f.Add([]byte(seed))
	}
	const pages = 3
	room, err := unix.Mmap(-1, 0, (pages+1)*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		f.Fatal(err)
	}
	room = room[:pages*pageSize]
	if err := unix.Mprotect(room[:(pages+1)*pageSize][pages*pageSize:], unix.PROT_NONE); err != nil {
		f.Fatal(err)
	}
	w := &worker{Broker: &Broker{}}
	n := &notification{PID: uint32(os.Getpid())}
	f.Fuzz(func(t *testing.T, content []byte) {
		content = content[:min(len(content), len(room))]
		at := len(room) - len(content)
		copy(room[at:], content)
		if len(content) == 0 {
			at-- // the last byte before what is missing
			room[at] = 'x'
			content = room[at:]
		}
		got, err := w.pathArgument(n, uint64(uintptr(unsafe.Pointer(&room[at]))))
		want, _, found := strings.Cut(string(content), "\x00")
		switch {
		case found && len(want) < unix.PathMax:
			if err != nil || got != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		case len(content) >= unix.PathMax:
			if err != unix.ENAMETOOLONG {
				t.Errorf("%q, %v; want ENAMETOOLONG", got, err)
			}
		case err != unix.EFAULT:
			t.Errorf("%q, %v; want EFAULT", got, err)
		}
	})
}

func FuzzParseOpenHow(f *testing.F) {
	f.Add(make([]byte, sizeOpenHow))
	f.Add(make([]byte, sizeOpenHow+8))
	f.Add(append(make([]byte, sizeOpenHow), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < sizeOpenHow {
			return
		}
		how, errno := parseOpenHow(raw)
		if errno == 0 && (how.Flags&^openFlags != 0 || how.Mode&^0o7777 != 0) {
			t.Errorf("%x: let %+v through", raw, how)
		}
	})
}

func TestParseStatus(t *testing.T) {
	got := parseStatus("Name:\tx\nUmask:\t0027\nState:\tR\nTgid:\t42\nPid:\t43\n")
	if got.umask != 0o27 || got.group != 42 {
		t.Errorf("%+v", got)
	}
	if got := parseStatus("Name:\tUmask: 0\n"); got.umask != 0o777 || got.group != 0 {
		t.Errorf("without fields: %+v", got)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add("Umask:\t0022\nTgid:\t1\n")
	f.Fuzz(func(t *testing.T, raw string) {
		if s := parseStatus(raw); s.umask&^0o777 != 0 {
			t.Errorf("%q: umask %o", raw, s.umask)
		}
	})
}

func TestInCgroup(t *testing.T) {
	for _, tt := range []struct {
		raw, cgroup string
		want        bool
	}{
		{"0::/raypher/a\n", "/raypher/a", true},
		{"0::/raypher/a/b\n", "/raypher/a", true},
		{"0::/raypher/ab\n", "/raypher/a", false},
		{"1:name=systemd:/raypher/a\n0::/\n", "/raypher/a", false},
		{"", "/raypher/a", false},
	} {
		if got := inCgroup(tt.raw, tt.cgroup); got != tt.want {
			t.Errorf("%q in %q: %v", tt.raw, tt.cgroup, got)
		}
	}
}

func TestAccessOfFlags(t *testing.T) {
	for _, tt := range []struct {
		flags uint64
		want  policy.Access
	}{
		{unix.O_RDONLY, policy.Read}, {unix.O_WRONLY, policy.Write}, {unix.O_RDWR, policy.Read | policy.Write},
		{3, policy.Read | policy.Write}, {unix.O_RDONLY | unix.O_TRUNC, policy.Read | policy.Write},
		{unix.O_RDONLY | unix.O_CREAT, policy.Read}, {unix.O_WRONLY | unix.O_APPEND, policy.Write},
	} {
		if got := (opening{flags: tt.flags}).access(); got != tt.want {
			t.Errorf("flags %#x: access %d, want %d", tt.flags, got, tt.want)
		}
	}
}

// TestTellsApart checks the shortcut by which folders are renamed: where no pattern of a policy tells two folders apart,
// everything below them is decided alike.
func TestTellsApart(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c"}
	path := func(length int) string {
		text := ""
		for range length {
			text += "/" + names[random.IntN(len(names))]
		}
		return text
	}
	pattern := func() string {
		text := path(random.IntN(3))
		switch random.IntN(5) {
		case 0:
			return text + "/**"
		case 1:
			return text + "/**/" + names[random.IntN(3)]
		case 2:
			return text + "/*" + path(random.IntN(2))
		case 3:
			return text + "/**" + path(2)
		}
		return text + path(1)
	}
	let := 0
	for range 20000 {
		f := &policy.Filesystem{Read: []string{pattern(), pattern()}, Write: []string{pattern()}, Deny: []string{pattern()}}
		before, after := path(1+random.IntN(3)), path(1+random.IntN(3))
		apart := false
		for _, one := range [][]string{f.Read, f.Write, f.Deny} {
			for _, text := range one {
				apart = apart || tellsApart(text, before, after)
			}
		}
		if apart || strings.HasPrefix(after+"/", before+"/") {
			continue
		}
		let++
		rules := (&policy.Policy{Filesystem: f}).FileRules()
		for range 20 {
			below := path(1 + random.IntN(3))
			for _, a := range []policy.Access{policy.Read, policy.Write} {
				if rules.Decide(before+below, a).Verdict != rules.Decide(after+below, a).Verdict {
					t.Fatalf("%+v: renaming %s to %s changes %s", f, before, after, below)
				}
			}
		}
	}
	if let < 100 {
		t.Errorf("only %d renames were let through: the test says little", let)
	}
}
