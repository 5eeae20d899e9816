package draft

import (
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
)

// TestDrift: what a run did beyond a policy, and what of the policy it did not use.
func TestDrift(t *testing.T) {
	const text = `
filesystem: {read: [~/work/**, /usr/lib/**, /etc/never], write: [~/work/out/*], exec: [/usr/bin/jq], require_approval: [/srv/asked]}
network: {egress: ["api.example:443", "192.0.2.0/24:80", "unused.example"], listen: ["127.0.0.1:8080"], unix: [/run/a.sock]}
`
	p, err := policy.Parse("p", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		did  []string
		want string
	}{
		{"within", []string{
			"r /home/u/work/a", "r /usr/lib/b", "r /etc/never", "w /home/u/work/out/x", "x /usr/bin/jq", "r /srv/asked", "ask api.example 198.51.100.1", "go 198.51.100.1:443",
			"go 192.0.2.7:80", "ask unused.example", "listen 127.0.0.1:8080", "unix /run/a.sock",
		}, ""},
		{"beyond", []string{"w /home/u/work/a", "r /home/u/.ssh/id_rsa", "ask evil.example 198.51.100.9", "go 198.51.100.9:443", "listen 0.0.0.0:80", "unix /run/docker.sock"},
			"beyond  read ~/.ssh/id_rsa  (risky: " + whySecret + ")\nbeyond  write ~/work/a\nbeyond  egress evil.example:443\n" +
				"beyond  listen 0.0.0.0:80  (note: on every address: other machines can connect)\nbeyond  unix /run/docker.sock  (risky: " + whyControl + ")\n"},
		{"a granted name on another port", []string{"ask api.example 198.51.100.1", "go 198.51.100.1:22"}, "beyond  egress api.example:22\n"},
		{"moved out", []string{"mv /home/u/work/out/x /home/u/y"}, "beyond  write ~/work/out/x\nbeyond  write ~/y\n"},
	} {
		d, err := Compare(p, "/home/u", did(t, tt.did...))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, line := range d.Say() {
			if strings.HasPrefix(line, "beyond") {
				got += line + "\n"
			}
		}
		if got != tt.want {
			t.Errorf("%s:\n%s\nwant:\n%s", tt.name, got, tt.want)
		}
		if tt.name == "within" && len(d.Unused) > 0 {
			t.Errorf("used, and said not to be: %v", d.Unused)
		}
		if tt.name == "beyond" && len(d.Unused) != 10 {
			t.Errorf("unused: %v, want 10", d.Unused)
		}
	}
}

// TestDriftSaysWhatWasTried: what no policy grants is said, though it stays refused.
func TestDriftSaysWhatWasTried(t *testing.T) {
	d, err := Compare(&policy.Policy{}, "/home/u", did(t, "never /sys/x"))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Beyond) != 0 || len(d.Refused) != 1 || !strings.Contains(strings.Join(d.Say(), "\n"), "tried   ") {
		t.Errorf("%+v", d)
	}
}
