package draft

import (
	"fmt"
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// did is a trace in short: each line is an access (rwx), or an operation, and its paths.
func did(t *testing.T, lines ...string) *trace.Trace {
	t.Helper()
	all := &trace.Trace{Header: trace.Header{Home: "/home/u"}, End: &trace.End{}}
	for _, line := range lines {
		words := strings.Fields(line)
		switch words[0] {
		case "mv", "mvdir":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.Rename, Access: "w", Path: words[1], To: words[2], Folder: words[0] == "mvdir"})
		case "ln":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.Link, Access: "w", Path: words[1], To: words[2]})
		case "map":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.MapExec, Access: "r", Path: words[1]})
		case "unix":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.Unix, Path: words[1]})
		case "socket":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.BindUnix, Access: "w", Path: words[1]})
		case "ask":
			e := trace.Entry{Operation: trace.Resolve, Name: words[1]}
			if len(words) > 2 {
				e.Address = words[2]
			}
			e.Special = len(words) > 3
			all.Entries = append(all.Entries, e)
		case "go":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.Connect, Address: words[1], Protocol: "tcp"})
		case "listen":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.Bind, Address: words[1], Protocol: "tcp"})
		case "call":
			all.Entries = append(all.Entries, trace.Entry{Operation: trace.Syscall, Target: words[1]})
		case "special":
			all.Entries = append(all.Entries, trace.Entry{Operation: "open", Access: "rw", Path: words[1], Special: true})
		case "never":
			all.Entries = append(all.Entries, trace.Entry{Operation: "open-write", Access: "w", Path: words[1], Fixed: true, Rule: "never written by agents"})
		default:
			all.Entries = append(all.Entries, trace.Entry{Operation: "open", Access: words[0], Path: words[1]})
		}
	}
	return all
}

// rulesOf are the draft's rules in short.
func rulesOf(d *Draft) string {
	var lines []string
	for _, r := range d.Rules {
		line := r.List + " " + r.Pattern
		if r.Grade != GradeNone {
			line += " " + string(r.Grade)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func many(n int, format string) []string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf(format, string(rune('a'+i))))
	}
	return lines
}

// TestFolding is the specification of which rules come of which paths.
func TestFolding(t *testing.T) {
	for _, tt := range []struct {
		name string
		did  []string
		want string
	}{
		{"a path", []string{"r /srv/app/a.txt"}, "read /srv/app/a.txt"},
		{"the home", []string{"r /home/u/x", "w /home/u/x", "r /home/u", "r /home/user/x"}, "read /home/user/x\nread ~\nread ~/x\nwrite ~/x"},
		{"signs of patterns in names", []string{"r /srv/[a]*{b}"}, `read /srv/\[a\]\*\{b\}`},
		{"executing is reading", []string{"r /usr/bin/jq", "x /usr/bin/jq"}, "exec /usr/bin/jq"},
		{"libraries", []string{"r /usr/lib/x/libc.so.6", "r /usr/share/zoneinfo/UTC", "r /usr/bin/x"}, "read /usr/bin/x\nread /usr/lib/**\nread /usr/share/**"},
		{"a library is not written by its tree", []string{"w /srv/usr/lib/x"}, "write /srv/usr/lib/x"},
		{"packages", []string{"r /srv/app/node_modules/a/index.js", "r /srv/app/node_modules/b/c/d.js"}, "read /srv/app/node_modules/**"},
		{"its own folder in procfs", []string{"r /proc/self/status", "r /proc/self/task/12/comm", "r /proc/cpuinfo", "w /proc/self/comm"}, "read /proc/cpuinfo\nread /proc/self/**\nwrite /proc/self/comm"},
		{"other processes", []string{"r /proc/123/stat", "r /proc/4/stat", "r /proc/4/task/5/comm"}, "read /proc/*/stat note\nread /proc/*/task/*/comm note"},
		{"few entries of a folder", many(7, "r /srv/app/%s"), "read /srv/app/a\nread /srv/app/b\nread /srv/app/c\nread /srv/app/d\nread /srv/app/e\nread /srv/app/f\nread /srv/app/g"},
		{"many entries of a folder", many(8, "r /srv/app/%s"), "read /srv/app/*"},
		{"entries of many folders", many(8, "r /srv/app/%s/x"), "read /srv/app/**"},
		{"many entries of a wide folder", many(8, "r /etc/%s"), "read /etc/a\nread /etc/b\nread /etc/c\nread /etc/d\nread /etc/e\nread /etc/f\nread /etc/g\nread /etc/h"},
		{"many folders of the home", many(9, "w /home/u/%s/x")[:8], "write ~/a/x\nwrite ~/b/x\nwrite ~/c/x\nwrite ~/d/x\nwrite ~/e/x\nwrite ~/f/x\nwrite ~/g/x\nwrite ~/h/x"},
		{"many programs stay programs", many(8, "x /srv/app/%s"), "exec /srv/app/a\nexec /srv/app/b\nexec /srv/app/c\nexec /srv/app/d\nexec /srv/app/e\nexec /srv/app/f\nexec /srv/app/g\nexec /srv/app/h"},
		{"a temporary name", []string{"w /tmp/tmp.QmXkPzAbCd/out.txt", "w /srv/app/sedAbC12x"}, "write /srv/app/?????????\nwrite /tmp/tmp.*/out.txt"},
		{"nothing but a made-up name in a wide folder", []string{"w /tmp/4f2a99c1"}, "write /tmp/???????? note"},
		{"hashes", []string{"w /srv/app/.git/objects/4b", "w /srv/app/.git/objects/4b/825dc642cb6eb9a060e54bf8d69288fbee4904"}, "write /srv/app/.git/objects/??\nwrite /srv/app/.git/objects/??/*"},
		{"a device", []string{"special /dev/pts/7"}, "read /dev/pts/7\nwrite /dev/pts/7"},
		{"what is moved may be used as before", []string{"w /srv/app/x.lock", "r /srv/app/x", "mv /srv/app/x.lock /srv/app/x"}, "read /srv/app/x\nread /srv/app/x.lock\nwrite /srv/app/x\nwrite /srv/app/x.lock"},
		{"what is moved among many", append(many(8, "r /srv/app/d/%s"), "mv /srv/app/y /srv/app/d/a"), "read /srv/app/d/*\nread /srv/app/y\nwrite /srv/app/d/a\nwrite /srv/app/y"},
		{"what is moved under a name that a pattern takes in", append(many(8, "r /srv/app/d/%s"), "mv /srv/app/y /srv/app/d/z"),
			"read /srv/app/d/*\nread /srv/app/y note\nwrite /srv/app/d/z\nwrite /srv/app/y"},
		{"what is linked needs no right to write", []string{"r /srv/app/a", "ln /srv/app/a /srv/app/b"}, "read /srv/app/a\nwrite /srv/app/a\nwrite /srv/app/b"},
		{"a folder is moved", []string{"w /srv/app/a", "w /srv/app/a/x", "mvdir /srv/app/a /srv/app/b", "r /srv/app/b/x"}, "read /srv/app/**\nwrite /srv/app/**"},
		{"a library that is loaded", []string{"map /usr/lib/a.so", "map /srv/app/b.so"}, "read /srv/app/b.so\nread /usr/lib/**"},
		{"a library that is made and loaded", []string{"w /srv/app/b.so", "map /srv/app/b.so"}, "read /srv/app/b.so\nwrite /srv/app/b.so\nexec /srv/app/b.so note"},
		{"a socket", []string{"socket /srv/app/run/x.sock"}, "write /srv/app/run/** note"},
		{"a socket in a wide folder", []string{"socket /tmp/x.sock"}, "write /tmp/** risky"},
		{"never everything", []string{"socket /x.sock", "socket /home/u/x.sock", "r /", "r /home/u"}, "read /\nread ~"},
		{"no policy grants it", []string{"never /sys/x"}, ""},
		{"by name", []string{"ask api.example 192.0.2.1", "ask api.example", "go 192.0.2.1:443", "go 192.0.2.9:80"}, "egress 192.0.2.9:80 note\negress api.example:443"},
		{"two names of one address", []string{"ask a.example 192.0.2.1", "ask b.example 192.0.2.1", "go 192.0.2.1:443"}, "egress a.example:443\negress b.example:443"},
		{"a name that opens nothing here", []string{"ask rebind.example 127.0.0.1 closed", "go 127.0.0.1:80"}, "egress 127.0.0.1:80 note\negress rebind.example:80"},
		{"only asked for", []string{"ask a.example 192.0.2.1", "ask none.example"}, "egress a.example:9 note\negress none.example:9 risky"},
		{"metadata", []string{"go 169.254.169.254:80", "ask metadata.google.internal 192.0.2.3", "go 192.0.2.3:80"}, "egress 169.254.169.254:80 risky\negress metadata.google.internal:80 risky"},
		{"listening", []string{"listen 127.0.0.1:8080", "listen [::]:80"}, "listen 127.0.0.1:8080\nlisten [::]:80 note"},
		{"a name that is none of a host", []string{"ask a_b..c 192.0.2.1", "ask -x 192.0.2.2"}, ""},
		{"a name that is spelled as an address, a network or a pattern",
			[]string{"ask 169.254.169.254 192.0.2.1", "ask 0.0.0.0/0 192.0.2.1", "ask *.example.org 192.0.2.1", "ask [::1] 192.0.2.1", "go 192.0.2.1:443"}, "egress 192.0.2.1:443 note"},
		{"metadata behind a translator", []string{"go [64:ff9b::a9fe:a9fe]:80", "go [::ffff:169.254.169.254]:80"}, "egress 169.254.169.254:80 risky\negress [64:ff9b::a9fe:a9fe]:80 risky"},
		{"a folder named ~", []string{"r /~", "r /~/x", "r /srv/~/x"}, "read /\\~\nread /\\~/x\nread /srv/~/x"},
		{"a program that it makes", []string{"w /srv/app/a.out", "x /srv/app/a.out"}, "write /srv/app/a.out\nexec /srv/app/a.out note"},
		{"a socket where others' programs lie", []string{"socket /etc/systemd/system/x.sock"}, "write /etc/systemd/system/** risky"},
		{"a system call", []string{"call shmget", "call mount"}, "syscalls shmget risky"},
	} {
		d := New(did(t, tt.did...), Options{})
		if got := rulesOf(d); got != tt.want {
			t.Errorf("%s:\n%s\nwant:\n%s", tt.name, got, tt.want)
		}
		if _, err := d.Policy(); err != nil {
			t.Errorf("%s: the draft is no policy: %v\n%s", tt.name, err, d.YAML())
		}
	}
}

// TestRisks: what is marked, and how.
func TestRisks(t *testing.T) {
	for _, tt := range []struct {
		did   string
		grade Grade
	}{
		{"r /home/u/.ssh/id_rsa", GradeRisky},
		{"r /home/u/.ssh/work", GradeRisky},
		{"r /home/u/.ssh/known_hosts", GradeNone},
		{"r /home/u/.ssh/id_rsa.pub", GradeNone},
		{"r /home/u/.aws/credentials", GradeRisky},
		{"r /home/u/.netrc", GradeRisky},
		{"r /home/u/.docker/config.json", GradeRisky},
		{"r /home/u/work/.env", GradeRisky},
		{"r /home/u/work/.env.local", GradeRisky},
		{"r /home/u/work/server.key", GradeRisky},
		{"r /home/u/work/config.json", GradeNone},
		{"r /etc/shadow", GradeRisky},
		{"r /etc/passwd", GradeNone},
		{"w /etc/passwd", GradeRisky},
		{"r /usr/share/ca-certificates/x.pem", GradeNone},
		{"r /home/u/venv/lib/site-packages/certifi/cacert.pem", GradeNone},
		{"w /home/u/.bashrc", GradeRisky},
		{"r /home/u/.bashrc", GradeNone},
		{"w /home/u/.ssh/authorized_keys", GradeRisky},
		{"w /home/u/work/.git/hooks/pre-commit", GradeRisky},
		{"w /home/u/work/.git/hooks/pre-commit.sample", GradeNone},
		{"r /root/.gnupg/trustdb", GradeRisky},
		{"r /home/other/.aws/sso", GradeRisky},
		{"w /root/.bashrc", GradeRisky},
		{"w /srv/homes/o/.ssh/authorized_keys", GradeRisky},
		{"w /srv/homes/o/.local/bin/x", GradeRisky},
		{"r /proc/1/environ", GradeRisky},
		{"r /proc/1/task/1/environ", GradeRisky},
		{"r /proc/kcore", GradeRisky},
		{"w /proc/sys/kernel/core_pattern", GradeRisky},
		{"w /sys/kernel/uevent_helper", GradeRisky},
		{"r /dev/sda", GradeRisky},
		{"r /dev/urandom", GradeNone},
		{"x /usr/bin/bash", GradeNote},
		{"x /usr/bin/python3.11", GradeNote},
		{"x /usr/bin/apt-get", GradeNote},
		{"x /usr/bin/jq", GradeNone},
		{"unix /run/docker.sock", GradeRisky},
		{"unix /run/postgresql/.s.PGSQL.5432", GradeNone},
		{"unix /tmp/ssh-XXXX/agent.12", GradeRisky},
	} {
		d := New(did(t, tt.did), Options{})
		if len(d.Rules) != 1 || d.Rules[0].Grade != tt.grade || (tt.grade == GradeNone) != (d.Rules[0].Why == "") {
			t.Errorf("%s: %+v, want grade %q", tt.did, d.Rules, tt.grade)
		}
	}
}

// TestWithheld: what is risky is not granted, whatever else is; asked about, or kept, when that is wanted.
func TestWithheld(t *testing.T) {
	lines := append(many(9, "r /home/u/work/%s"), "r /home/u/work/.env", "go 169.254.169.254:80", "unix /run/docker.sock")
	for _, tt := range []struct {
		risky Risky
		file  policy.Verdict
		rest  bool
	}{{"", policy.VerdictBlock, false}, {Comment, policy.VerdictBlock, false}, {Ask, policy.VerdictApproval, false}, {Keep, policy.VerdictAllow, true}} {
		d := New(did(t, lines...), Options{Risky: tt.risky})
		p, err := d.Policy()
		if err == nil {
			p, err = p.Expand("/home/u")
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", tt.risky, err, d.YAML())
		}
		if got := p.FileRules().Decide("/home/u/work/.env", policy.Read).Verdict; got != tt.file {
			t.Errorf("--risky %s: reading the secret is %v, want %v\n%s", tt.risky, got, tt.file, d.YAML())
		}
		if got := p.FileRules().Decide("/home/u/work/other", policy.Read).Verdict; got != policy.VerdictAllow {
			t.Errorf("--risky %s: the rest is %v", tt.risky, got)
		}
		if got := len(p.Network.Unix)+len(p.Network.Egress) == 2; got != tt.rest {
			t.Errorf("--risky %s: the network is %+v", tt.risky, p.Network)
		}
	}
}

// TestLists: no list is longer than a manifest's may be.
func TestLists(t *testing.T) {
	var lines []string
	for i := range 200 {
		for j := range 7 {
			lines = append(lines, fmt.Sprintf("r /srv/app/%s/%s%s", string(rune('a'+i%7)), strings.Repeat("y", i/7+1), string(rune('a'+j))))
		}
	}
	for i := range 1500 {
		lines = append(lines, fmt.Sprintf("r /srv/b%s/x", strings.Repeat("y", i)))
	}
	d := New(did(t, lines...), Options{Many: 100000})
	if len(d.Rules) > 4096 {
		t.Errorf("%d rules", len(d.Rules))
	}
	if len(d.Beyond) == 0 {
		t.Error("that they are too many for a manifest is not said")
	}
}

// TestLostIsSaid: a draft of a trace with holes says so.
func TestLostIsSaid(t *testing.T) {
	whole := did(t, "r /a")
	if d := New(whole, Options{}); d.Lost != "" || strings.Contains(string(d.YAML()), "INCOMPLETE") {
		t.Errorf("a whole trace: %q", d.Lost)
	}
	whole.End = nil
	if d := New(whole, Options{}); d.Lost == "" || !strings.Contains(string(d.YAML()), "INCOMPLETE") {
		t.Error("a trace that was cut off passes for whole")
	}
}

// FuzzDraft: whatever a run did, the draft is a policy, grants everything of it that it does not withhold, and never /** or ~/**.
func FuzzDraft(f *testing.F) {
	f.Add("/home/u/a", "/srv/b\n#", "r", "x.example", true)
	f.Add("/tmp/tmp.abcDEF123", "/home/u/.ssh/id_rsa", "rw", "a.b", false)
	f.Fuzz(func(t *testing.T, one, two, access, name string, folder bool) {
		all := &trace.Trace{Header: trace.Header{Home: "/home/u"}, End: &trace.End{}}
		r := trace.NewRecorder(nil, all.Header)
		for _, e := range []trace.Entry{
			{Operation: "open", Access: access, Path: one}, {Operation: "create", Access: "rw", Path: two},
			{Operation: trace.Rename, Access: "w", Path: one, To: two, Folder: folder},
			{Operation: trace.Resolve, Name: name, Address: "192.0.2.1"},
			{Operation: trace.Unix, Path: two}, {Operation: trace.BindUnix, Access: "w", Path: two},
		} {
			r.Add(e)
		}
		all.Entries = r.Trace().Entries
		text, err := all.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := trace.Read(strings.NewReader(string(text)))
		if err != nil {
			return
		}
		d := New(read, Options{Risky: Keep})
		p, err := d.Policy()
		if err != nil {
			t.Fatalf("%v\n%s", err, d.YAML())
		}
		for _, list := range [][]string{p.Filesystem.Read, p.Filesystem.Write, p.Filesystem.Exec} {
			for _, pattern := range list {
				if pattern == "/**" || pattern == "~/**" {
					t.Errorf("it grants %s", pattern)
				}
			}
		}
	})
}
