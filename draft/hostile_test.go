package draft

import (
	"testing"

	"github.com/raypher/raypher/policy"
)

// TestHostileNames: names that a program chose so that their pattern would take in keys, or what others run, do not get it.
func TestHostileNames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		did    []string
		target string
	}{
		{"a folder as long as .kube", []string{"r /home/u/12345/config"}, "/home/u/.kube/config"},
		{"a folder as long as .gnupg", []string{"r /home/u/123456/trustdb"}, "/home/u/.gnupg/trustdb"},
		{"a folder as long as .docker", []string{"r /home/u/1234567/config.json"}, "/home/u/.docker/config.json"},
		{"a folder as long as gcloud", []string{"r /home/u/.config/123456/a.db"}, "/home/u/.config/gcloud/a.db"},
		{"a folder as long as another's name", []string{"w /home/12345/x"}, "/home/alice/x"},
		{"a folder as long as root's .kube", []string{"r /root/12345/x"}, "/root/.kube/x"},
		{"a folder as long as hooks", []string{"w /srv/a/.git/12345/post-merge"}, "/srv/a/.git/hooks/post-merge"},
		{"a folder beside private", []string{"r /etc/ssl/1234567/x"}, "/etc/ssl/private/x"},
		{"a folder named ~", []string{"w /~/.bashrc", "w /~/work/x"}, "/home/u/work/x"},
		{"many public keys", many(9, "r /home/u/.config/gh/%s.pub"), "/home/u/.config/gh/hosts.yml"},
		{"many folders beside bin", many(9, "w /home/u/.cargo/%s/x"), "/home/u/.cargo/bin/x"},
		{"many folders beside another's bin", many(9, "w /srv/o/.cargo/%s/x"), "/srv/o/.cargo/bin/x"},
		{"many files beside git's configuration", many(9, "w /home/u/.config/git/%s"), "/home/u/.config/git/config"},
		{"many folders beside hooks", many(9, "w /srv/a/.git/%s/x"), "/srv/a/.git/hooks/post-merge"},
		{"many examples of hooks", many(9, "w /srv/a/.git/hooks/%s.sample"), "/srv/a/.git/hooks/post-merge"},
		{"many folders beside private", many(9, "r /etc/ssl/%s/x"), "/etc/ssl/private/x"},
		{"a folder moved beside bin", []string{"w /home/u/.cargo/a", "mvdir /home/u/.cargo/a /home/u/.cargo/b"}, "/home/u/.cargo/bin/x"},
	} {
		d := New(did(t, tt.did...), Options{})
		p, err := d.Policy()
		if err == nil {
			p, err = p.Expand("/home/u")
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", tt.name, err, d.YAML())
		}
		for _, access := range []policy.Access{policy.Read, policy.Write} {
			if p.FileRules().Decide(tt.target, access).Verdict == policy.VerdictAllow {
				t.Errorf("%s: the draft grants %s\n%s", tt.name, tt.target, d.YAML())
			}
		}
	}
}
