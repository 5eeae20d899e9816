package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
)

func TestPermissions(t *testing.T) {
	root := t.TempDir()
	p, err := parse(t, example).Permissions(root)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2][]string{
		"read":   {p.Filesystem.Read, {root + "/**", "/usr/share/zoneinfo/**"}},
		"write":  {p.Filesystem.Write, {root + "/cache/**"}},
		"exec":   {p.Filesystem.Exec, {"/usr/bin/python3", root + "/bin/*"}},
		"egress": {p.Network.Egress, {"api.weather.example:443", "192.0.2.0/24:53"}},
	}
	for list, w := range want {
		if !slices.Equal(w[0], w[1]) {
			t.Errorf("%s is %q, want %q", list, w[0], w[1])
		}
	}
	if p.Mode != "" || p.Syscalls != nil || p.Resources != nil || p.Namespace != "" {
		t.Errorf("what is the operator's is not inherited: %+v", p)
	}
}

// What a manifest does not mention it does not get, even where the policy grants it.
func TestPermissionsOfSilenceAreNone(t *testing.T) {
	p, err := parse(t, `{"skill_id": "a", "version": "1", "permissions": {}}`).Permissions(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if p.Filesystem == nil || p.Network == nil || p.Network.DefaultAction != policy.Drop {
		t.Fatalf("sections are missing, they would be inherited: %+v", p)
	}
	outer, err := policy.Parse("policy.yaml", []byte("filesystem: {read: [/**], write: [/tmp/**], exec: [/usr/**]}\nnetwork: {egress: [0.0.0.0/0]}\nresources: {max_processes: 5}\n"))
	if err != nil {
		t.Fatal(err)
	}
	permit, err := policy.Narrow(outer, p)
	if err != nil {
		t.Fatal(err)
	}
	if d := permit.FileRules().Decide("/etc/hostname", policy.Read); !permit.FileRules().Governed() || d.Verdict != policy.VerdictBlock {
		t.Errorf("reading is granted: %+v", d)
	}
	if n := permit.Network.Endpoints(); len(n) != 0 {
		t.Errorf("network is granted: %v", n)
	}
	if permit.Resources == nil || *permit.Resources.MaxProcesses != 5 {
		t.Errorf("resources are not inherited")
	}
}

func TestPermissionsBeyondThePolicyAreListed(t *testing.T) {
	outer, err := policy.Parse("policy.yaml", []byte("filesystem: {read: [/usr/**], exec: [/usr/bin/python3]}\nnetwork: {egress: [\"api.weather.example:443\"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	inner, err := parse(t, example).Permissions(root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = policy.Narrow(outer, inner)
	var excess *policy.Excess
	if !errors.As(err, &excess) {
		t.Fatalf("got %v, want an Excess", err)
	}
	for _, want := range []string{root + "/**", root + "/cache/**", "192.0.2.0/24:53", root + "/bin/*"} {
		if !slices.ContainsFunc(excess.Items, func(b policy.Beyond) bool { return b.Item == want }) {
			t.Errorf("%q is not listed in %+v", want, excess.Items)
		}
	}
}

func TestPermissionsRoot(t *testing.T) {
	dir := t.TempDir()
	m := parse(t, example)
	if _, err := m.Permissions("skills/weather"); err == nil {
		t.Error("a relative folder was accepted")
	}
	link := filepath.Join(dir, "link")
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", link))
	p, err := m.Permissions(link)
	if err != nil || p.Filesystem.Read[0] != filepath.Join(dir, "real")+"/**" {
		t.Errorf("the guard sees resolved paths: got %v, %v", p, err)
	}
	for _, name := range []string{"a*b", "a?b", "{a,b}", "a[b]", `a\b`} {
		odd := filepath.Join(dir, name)
		must(t, os.Mkdir(odd, 0o755))
		if _, err := m.Permissions(odd); err == nil || !strings.Contains(err.Error(), "pattern syntax") {
			t.Errorf("folder %q: got %v", name, err)
		}
	}
}
