package eif_test

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/attest/eif"
)

func entries() []eif.Entry {
	return []eif.Entry{
		{Path: "init", Mode: eif.ModeRegular | 0o755, Content: []byte("#!")},
		{Path: "dev/console", Mode: eif.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		{Path: "dev", Mode: eif.ModeDirectory | 0o755},
	}
}

// TestRamdisk: the order of the entries does not matter, and GNU cpio reads what was written.
func TestRamdisk(t *testing.T) {
	archive := ok(eif.MakeRamdisk(entries()))(t)
	reversed := entries()
	slices.Reverse(reversed)
	if !bytes.Equal(archive, ok(eif.MakeRamdisk(reversed))(t)) {
		t.Error("the order of the entries changes the archive")
	}
	if len(archive)%512 != 0 {
		t.Errorf("%d bytes are no whole blocks", len(archive))
	}
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed: its reading of the archive was not compared")
	}
	list := exec.Command(cpio, "-itvn")
	list.Stdin = bytes.NewReader(archive)
	list.Env = []string{"TZ=UTC", "LC_ALL=C"}
	out := ok(list.Output())(t)
	for n, want := range []string{"drwxr-xr-x 2 0 0 0 Jan 1 1970 dev", "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console", "-rwxr-xr-x 1 0 0 2 Jan 1 1970 init"} {
		if got := strings.Join(strings.Fields(strings.Split(string(out), "\n")[n]), " "); got != want {
			t.Errorf("entry %d: %q, want %q", n, got, want)
		}
	}
}

func TestRamdiskRefuses(t *testing.T) {
	for name, bad := range map[string][]eif.Entry{
		"no path":                {{Mode: eif.ModeRegular}},
		"an absolute path":       {{Path: "/init", Mode: eif.ModeRegular}},
		"a path that leads out":  {{Path: "../init", Mode: eif.ModeRegular}},
		"a path with more ways":  {{Path: "a/./b", Mode: eif.ModeRegular}},
		"a NUL":                  {{Path: "a\x00b", Mode: eif.ModeRegular}},
		"the end of the archive": {{Path: "TRAILER!!!", Mode: eif.ModeRegular}},
		"the same path twice":    {{Path: "a", Mode: eif.ModeRegular}, {Path: "a", Mode: eif.ModeDirectory}},
		"a folder with content":  {{Path: "a", Mode: eif.ModeDirectory, Content: []byte("x")}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := eif.MakeRamdisk(bad); err == nil {
				t.Error("written")
			}
		})
	}
}
