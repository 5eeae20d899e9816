package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/raypher/raypher/examples/stage"
	"github.com/raypher/raypher/test/isolated"
)

// learned are programs that do honest work, and with the argument "more" something that nobody taught them: reading a key.
var learned = []struct {
	name, needs string
	file, text  string
	command     []string
}{
	{"bash", "/bin/bash", "job.sh", `#!/bin/bash
set -e
mkdir -p out
for i in 1 2 3; do date +%s > out/log.$i; done
t=$(mktemp); echo x > $t; mv $t out/final
sed -i s/x/y/ out/final
cat notes.txt out/final | sort > /dev/null; ls -l /proc/self/fd > /dev/null
if [ "$1" = more ]; then while read -r line; do echo "$line"; done < ~/.ssh/id_rsa; fi
echo fine
`, []string{"./job.sh"}},
	{"python3", "/usr/bin/python3", "job.py", `
import json, os, socket, sqlite3, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as d:
    open(os.path.join(d, "a.json"), "w").write(json.dumps({"a": 1}))
os.makedirs("data", exist_ok=True)
for i in range(20):
    open(f"data/item{i}.txt", "w").write(str(i))
assert sum(int(open("data/" + f).read()) for f in os.listdir("data") if f.endswith("txt")) == 190
subprocess.check_output(["uname", "-s"])
os.makedirs("run", exist_ok=True)
if os.path.exists("run/s"):
    os.unlink("run/s")
listening = socket.socket(socket.AF_UNIX); listening.bind("run/s"); listening.listen()
socket.socket(socket.AF_UNIX).connect("run/s")
if sys.argv[1:] == ["more"]:
    print(open(os.path.expanduser("~/.ssh/id_rsa")).read())
print("fine")
`, []string{"/usr/bin/python3", "job.py"}},
	{"git", "/usr/bin/git", "git.sh", `#!/bin/sh
set -e
rm -rf repository; git init -q repository; cd repository
git config user.email a@b.example; git config user.name a
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do date +%N > f$i; done
git add .; git commit -qm one; date +%N > f1; git commit -qam two
git checkout -qb side; git log --oneline > /dev/null; git status --short; git gc -q
cd ..; rm -rf repository
if [ "$1" = more ]; then while read -r line; do echo "$line"; done < ~/.ssh/id_rsa; fi
echo fine
`, []string{"./git.sh"}},
	{"node", "/usr/bin/node", "job.js", `
const fs = require('fs'), os = require('os'), path = require('path');
const d = fs.mkdtempSync(path.join(os.tmpdir(), 'x-')); fs.writeFileSync(d + '/a', '1'); fs.rmSync(d, {recursive: true});
fs.writeFileSync('node.out', require('child_process').execFileSync('/bin/echo', ['hi']));
if (process.argv[2] === 'more') console.log(fs.readFileSync(os.homedir() + '/.ssh/id_rsa', 'utf8'));
console.log('fine');
`, []string{"/usr/bin/node", "job.js"}},
}

// TestLearn: under the policy that was drafted from a run, the same run passes without a refusal, and one thing more is refused. As
// root with a private pair and with raypherd, and as a plain user.
func TestLearn(t *testing.T) {
	t.Run("private pair", func(t *testing.T) { learnAll(t, newBareMachine(t), 0, nil, "bash") })
	t.Run("raypherd", func(t *testing.T) { learnAll(t, newMachine(t), 0, nil) })
	t.Run("plain user", func(t *testing.T) {
		group, err := user.LookupGroup(groupName)
		if err != nil {
			t.Skipf("the system has no group %s: %v", groupName, err)
		}
		id, err := strconv.ParseUint(group.Gid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		learnAll(t, newMachine(t, "--group", groupName), memberID, []uint32{uint32(id)})
	})
}

// learnAll learns every program, or those that are named.
func learnAll(t *testing.T, m *machine, uid uint32, groups []uint32, names ...string) {
	for _, program := range learned {
		if len(names) > 0 && !slices.Contains(names, program.name) {
			continue
		}
		t.Run(program.name, func(t *testing.T) {
			if _, err := os.Stat(program.needs); err != nil {
				t.Skipf("%s is not installed", program.needs)
			}
			l := &learner{machine: m.in(t), uid: uid, groups: groups}
			l.file(program.file, program.text)
			l.own()
			l.learn(append([]string{"--"}, program.command...)...)
			for _, command := range [][]string{{"policy", "check", "raypher-learned/policy.yaml"}, {"manifest", "show", "raypher-learned"}} {
				if got := l.do(command...); got.code != 0 {
					t.Errorf("%v: %d\n%s%s", command, got.code, got.stdout, got.stderr)
				}
			}
			l.signs()
			run := append([]string{"run", "--policy", "raypher-learned/policy.yaml", "--"}, program.command...)
			if got := l.do(run...); got.code != 0 || !strings.Contains(got.stdout, "fine") || strings.Contains(got.stderr, "blocked") {
				t.Errorf("the same again: %d\n%s%s\n%s", got.code, got.stdout, got.stderr, l.read("raypher-learned/policy.yaml"))
			}
			got := l.do(append(run, "more")...)
			if strings.Contains(got.stdout, stage.Secret) || !strings.Contains(got.stderr, ".ssh/id_rsa") {
				t.Errorf("a key was read, or that it was tried is not said:\n%s%s", got.stdout, got.stderr)
			}
			if err := os.RemoveAll(filepath.Join(m.home.Work, "raypher-learned")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// learner runs commands as one user.
type learner struct {
	*machine
	uid    uint32
	groups []uint32
}

func (l *learner) do(arguments ...string) outcome {
	l.t.Helper()
	cmd := l.command(l.t.Context(), arguments...)
	if l.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: l.uid, Gid: l.uid, Groups: l.groups}}
	}
	return l.wait(cmd)
}

// learn is raypher learn, which must draft something whole.
func (l *learner) learn(arguments ...string) outcome {
	l.t.Helper()
	got := l.do(append([]string{"learn"}, arguments...)...)
	if got.code != 0 || strings.Contains(got.stderr, "INCOMPLETE") {
		l.t.Fatalf("learn: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	return got
}

func (l *learner) file(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.home.Work, name), []byte(text), 0o755); err != nil {
		l.t.Fatal(err)
	}
}

func (l *learner) read(name string) string {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.home.Work, name))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}

// own gives the home to the user.
func (l *learner) own() {
	l.t.Helper()
	err := filepath.WalkDir(l.home.Dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(l.uid), int(l.uid))
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// signs signs the drafted manifest and verifies it.
func (l *learner) signs() {
	l.t.Helper()
	keys, err := os.MkdirTemp(l.home.Root, "keys-")
	if err == nil {
		err = os.Chown(keys, int(l.uid), int(l.uid))
	}
	if err != nil {
		l.t.Fatal(err)
	}
	for _, command := range [][]string{
		{"manifest", "keygen", "--out", keys, "acme"}, {"manifest", "sign", "--key", filepath.Join(keys, "acme.key"), "raypher-learned"},
		{"manifest", "verify", "--signers", keys, "--policy", "raypher-learned/policy.yaml", "raypher-learned"},
	} {
		if got := l.do(command...); got.code != 0 {
			l.t.Errorf("%v: %d\n%s%s", command, got.code, got.stdout, got.stderr)
		}
	}
}

// The hosts of TestLearnNames. They exist in the test's namespace alone.
const (
	grantedName    = "granted.learn.test"
	grantedAddress = "192.0.2.81"
	otherName      = "other.learn.test"
	otherAddress   = "192.0.2.82"
)

// TestLearnNames: what a run resolved and went to is granted by name, with its port; another host, and another port, are refused.
func TestLearnNames(t *testing.T) {
	isolated.NeedRoot(t)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	resolver := serveNames(t)
	for _, tt := range []struct {
		name string
		m    func() *machine
	}{
		{"raypherd", func() *machine { return newMachine(t, "--dns-upstream", resolver) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &learner{machine: tt.m().in(t)}
			curl := []string{"curl", "-sS", "--max-time", "10"}
			l.learn(append(append([]string{"--"}, curl...), "http://"+grantedName+":8099/")...)
			text := l.read("raypher-learned/policy.yaml")
			if !strings.Contains(text, `"`+grantedName+`:8099"`) || strings.Contains(text, grantedAddress) {
				t.Fatalf("the host is not granted by its name and port:\n%s", text)
			}
			for _, try := range []struct {
				url     string
				reached bool
			}{
				{"http://" + grantedName + ":8099/", true}, {"http://" + otherName + ":8099/", false}, {"http://" + grantedName + ":8098/", false},
				{"http://" + otherAddress + ":8099/", false},
			} {
				got := l.do(append(append([]string{"run", "--policy", "raypher-learned/policy.yaml", "--"}, curl...), try.url)...)
				if reached := strings.Contains(got.stdout, "hello"); reached != try.reached || try.reached == strings.Contains(got.stderr, "blocked") {
					t.Errorf("%s: reached %v, want %v\n%s%s", try.url, reached, try.reached, got.stdout, got.stderr)
				}
			}
		})
	}
}

// serveNames serves both hosts and their names, and returns the resolver's address.
func serveNames(t *testing.T) string {
	t.Helper()
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{grantedName: grantedAddress, otherName: otherAddress}
	for _, address := range addresses {
		a, err := netlink.ParseAddr(address + "/32")
		if err == nil {
			err = netlink.AddrReplace(loopback, a)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range []string{"8099", "8098"} {
			listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello\n")) })}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(func() { server.Close() })
		}
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		q := r.Question[0]
		if address, ok := addresses[strings.TrimSuffix(strings.ToLower(q.Name), ".")]; !ok {
			m.Rcode = dns.RcodeNameError
		} else if q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(address)}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return socket.LocalAddr().String()
}

// TestLearnMerge: what two runs did is granted together, and a run that went further than a draft is drift.
func TestLearnMerge(t *testing.T) {
	l := &learner{machine: newMachine(t)}
	l.file("one", "1\n")
	l.file("two", "2\n")
	l.learn("--out", "first", "--", "/bin/cat", "one")
	if got := l.do("learn", "--out", "first", "--", "/bin/cat", "two"); got.code != 2 || !strings.Contains(got.stderr, "--merge") {
		t.Errorf("a draft would have been replaced: %d %s", got.code, got.stderr)
	}
	l.learn("--out", "second", "--", "/bin/cat", "two")
	l.learn("--merge", "first", "--merge", "second/trace.jsonl", "--out", "both")
	for _, tt := range []struct {
		policy, file string
		code         int
	}{{"first", "one", 0}, {"first", "two", 1}, {"both", "one", 0}, {"both", "two", 0}} {
		if got := l.do("run", "--policy", tt.policy+"/policy.yaml", "--", "/bin/cat", tt.file); got.code != tt.code {
			t.Errorf("%s under %s: %d, want %d\n%s", tt.file, tt.policy, got.code, tt.code, got.stderr)
		}
	}
	for _, tt := range []struct {
		arguments []string
		code      int
		says      string
	}{
		{[]string{"policy", "diff", "first/policy.yaml", "first"}, 0, "grant the same"},
		{[]string{"policy", "diff", "first/policy.yaml", "both/policy.yaml"}, 1, "work/two"},
		{[]string{"policy", "drift", "--manifest", "both", "first", "second"}, 0, "within"},
		{[]string{"policy", "drift", "--manifest", "first", "first", "second"}, 1, "beyond  read ~/work/two"},
		{[]string{"policy", "drift", "--policy", "both/policy.yaml", "first"}, 0, "unused  read ~/work/two"},
		{[]string{"policy", "drift", "first"}, 2, ""},
	} {
		if got := l.do(tt.arguments...); got.code != tt.code || !strings.Contains(got.stdout, tt.says) {
			t.Errorf("%v: %d, want %d with %q\n%s%s", tt.arguments, got.code, tt.code, tt.says, got.stdout, got.stderr)
		}
	}
	if err := os.Truncate(filepath.Join(l.home.Work, "first", "trace.jsonl"), 300); err == nil {
		if got := l.do("learn", "--merge", "first", "--out", "cut"); got.code == 0 {
			t.Errorf("a trace that was cut off passed for whole:\n%s", got.stderr)
		}
	}
}

// TestLearnNotStarted: a program that was not started teaches nothing, and the status says so.
func TestLearnNotStarted(t *testing.T) {
	l := &learner{machine: newMachine(t)}
	if got := l.do("learn", "--", "/no/such/program"); got.code != 127 {
		t.Errorf("status %d, want 127\n%s", got.code, got.stderr)
	}
	if got := l.do("learn", "--", "/bin/sh", "-c", "exit 126"); got.code != 0 || !strings.Contains(got.stderr, "exit status 126") {
		t.Errorf("a program's own status: %d\n%s", got.code, got.stderr)
	}
}

// TestAuditReport: mode audit and --dry-run end with what enforce would have refused and the rules that would allow it; with them,
// nothing is refused any more.
func TestAuditReport(t *testing.T) {
	l := &learner{machine: newMachine(t)}
	const script = "cat notes.txt; cat ~/.ssh/id_rsa > /dev/null; : > new"
	file := filepath.Join(l.home.Root, "report.json")
	l.policy(strings.Replace(ordinary, "write: [~/work/**, ", "write: [", 1))
	got := l.do("run", "--dry-run", "--report", file, "--policy", filepath.Join(l.home.Root, "policy.yaml"), "--", "/bin/sh", "-c", script)
	for _, want := range []string{"enforce would have refused 2 different things", `- "~/.ssh/id_rsa"  # risky: holds keys`, `- "~/work/new"`} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("the report does not say %q:\n%s", want, got.stderr)
		}
	}
	var report struct {
		Refused []struct{ Path string } `json:"would_refuse"`
		Rules   []struct{ List, Pattern, Grade string }
		Lost    string
	}
	text := awaitFile(t, file)
	if err := json.Unmarshal(text, &report); err != nil || len(report.Refused) != 2 || len(report.Rules) != 2 || report.Lost != "" {
		t.Errorf("the report as JSON: %v\n%s", err, text)
	}
	if got := l.do("run", "--report", file, "--policy", l.policy(ordinary), "--", "/bin/true"); got.code != 125 || !strings.Contains(got.stderr, "--dry-run") {
		t.Errorf("a report of a run that enforces: %d\n%s", got.code, got.stderr)
	}
	if got := l.do("run", "--dry-run", "--policy", l.policy(ordinary), "--", "/bin/cat", "notes.txt"); !strings.Contains(got.stderr, "would have refused nothing") {
		t.Errorf("of a run within its policy:\n%s", got.stderr)
	}
	if got := l.do("run", "--dry-run", "--policy", l.policy(ordinary), "--", "/bin/mkdir", "-p", "/tmp"); !strings.Contains(got.stderr, "would have refused nothing") {
		t.Errorf("of a folder that is there already:\n%s", got.stderr)
	}
}

// awaitFile reads a file that the warden writes after the program's end.
func awaitFile(t *testing.T, path string) []byte {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(text), "\n") {
			return text
		}
	}
	t.Fatalf("%s was not written", path)
	return nil
}
