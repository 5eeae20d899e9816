package warden

import (
	"testing"

	"github.com/raypher/raypher/policy"
)

// TestPermitWithinLaunch: what raypherd sends later is granted only as far as the launch was.
func TestPermitWithinLaunch(t *testing.T) {
	read := func(text string) *policy.Policy {
		p, err := policy.Parse("policy", []byte(text))
		if err == nil {
			p, err = p.Expand("/home/u")
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	launch := read(`
filesystem: {read: [/w/**, /usr/**], write: [/w/**], exec: [/usr/bin/**], deny: [/w/secret/**, "/**/.env"], require_approval: [/w/ask]}
network: {egress: ["example.com:443"], unix: [/run/x.sock]}
syscalls: {ptrace: deny}
`)
	narrow := func(text string) *policy.Policy {
		p, err := policy.Narrow(launch, read(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, tt := range []struct {
		name   string
		permit *policy.Policy
		want   bool
	}{
		{"the same", launch, true},
		{"narrowed to nothing", narrow("filesystem: {}\nnetwork: {}\n"), true},
		{"narrowed to a part", narrow("filesystem: {read: [/w/a/**]}\n"), true},
		{"narrowed with another deny", narrow("filesystem: {read: [/w/**], deny: [/w/b]}\n"), true},
		{"another section", narrow("network: {egress: []}\n"), true},
		{"everything", read(`filesystem: {read: ["/**"], write: ["/**"], exec: ["/**"]}`), false},
		{"one path more", read(`
filesystem: {read: [/w/**, /usr/**, /etc/shadow], write: [/w/**], exec: [/usr/bin/**], deny: [/w/secret/**, "/**/.env"], require_approval: [/w/ask]}
network: {egress: ["example.com:443"], unix: [/run/x.sock]}
syscalls: {ptrace: deny}
`), false},
		{"without what is denied", read("filesystem: {read: [/w/**]}\nnetwork: {}\nsyscalls: {ptrace: deny}\n"), false},
		{"without files", read("network: {}\nsyscalls: {ptrace: deny}\n"), false},
		{"audit", read("mode: audit\nfilesystem: {}\nnetwork: {}\nsyscalls: {ptrace: deny}\n"), false},
		{"another socket", read("filesystem: {}\nnetwork: {unix: [/run/y.sock]}\nsyscalls: {ptrace: deny}\n"), false},
	} {
		_, err := withinLaunch(launch, tt.permit.Canonical())
		if (err == nil) != tt.want {
			t.Errorf("%s: %v, want it granted: %v", tt.name, err, tt.want)
		}
	}
	if _, err := withinLaunch(launch, []byte("{")); err == nil {
		t.Error("what cannot be read was granted")
	}
}
