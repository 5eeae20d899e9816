package daemon

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
)

// TestCutByAnOperator: a cut is in force when the command ends, in the journal with who made it, there while raypherd is away and after it is
// back, and over when an operator says so. What passed is counted all the while.
func TestCutByAnOperator(t *testing.T) {
	p := newPair(t).start()
	address := listener(t)
	file := p.write("file", "line\n")
	last := p.looping(reject(address), file, address)
	p.eventually("it reaches what is granted", func() bool { return last() == "open reached" })
	net := func(want string, words ...string) {
		t.Helper()
		out, err := p.cli(append([]string{"net"}, words...)...)
		if (err == nil) != !strings.HasPrefix(want, "error: ") || !strings.Contains(out, strings.TrimPrefix(want, "error: ")) {
			t.Errorf("raypher net %q: %v, %s, want %q", words, err, out, want)
		}
	}
	host, _, _ := strings.Cut(address, ":")
	net("error: not both", "cut", "loop", "--name", "example.com", "--address", host)
	net("error: no address", "cut", "loop", "--address", "example.com")
	net("error: no port", "cut", "loop", "--address", address)
	net("error: is not cut off", "restore", "loop", "--address", host)
	net("is cut off "+host+" (with an error) by root", "cut", "loop", "--address", host, "--reject")
	p.eventually("it reaches nothing", func() bool { return last() == "open refused" })

	p.end(syscall.SIGKILL)
	if got := last(); got != "open refused" {
		t.Errorf("without raypherd it is %q", got)
	}
	p.start()
	p.eventually("the agent is found again", func() bool { return len(p.list()) == 1 && p.list()[0].State == "running" })
	if got := last(); got != "open refused" {
		t.Errorf("after a restart it is %q", got)
	}
	net("is cut off "+host+" (with an error) by root", "top", "loop")
	net("egress "+address, "top")
	out, err := p.cli("net", "top", "--json")
	var top struct {
		Agents []struct {
			Rules []struct {
				Rule       string
				PacketsOut string `json:"packets_out"`
			}
		}
	}
	if err != nil || json.Unmarshal([]byte(out), &top) != nil || len(top.Agents) != 1 || len(top.Agents[0].Rules) == 0 || top.Agents[0].Rules[0].PacketsOut == "0" {
		t.Errorf("raypher net top --json: %v, %s", err, out)
	}
	net("cut off "+host+" (with an error) by root, 192.0.2.0/24 by root", "cut", "loop", "--address", "192.0.2.0/24")
	for _, words := range [][]string{{"cut", "loop", "--address", "198.51.100.0/24", "--json"}, {"restore", "loop", "--address", "198.51.100.0/24", "--json"}} {
		var now struct {
			Cuts []struct {
				Address, User string
				Reject        bool
			}
		}
		out, err := p.cli(append([]string{"net"}, words...)...)
		if err != nil || json.Unmarshal([]byte(out), &now) != nil || len(now.Cuts) != map[string]int{"cut": 3, "restore": 2}[words[0]] ||
			now.Cuts[0].Address != host || !now.Cuts[0].Reject || now.Cuts[0].User != "root" {
			t.Errorf("raypher net %q: %v, %s", words, err, out)
		}
	}
	net("cut off 192.0.2.0/24 by root", "restore", "loop", "--address", host)
	p.eventually("it reaches what is granted again", func() bool { return last() == "open reached" })
	net("cut off nothing", "restore", "loop")
	p.eventually("all of it is in the journal", func() bool {
		seen := map[string]bool{}
		for _, v := range p.evidence() {
			if v.Layer == "operator" && strings.Contains(v.Rule, "uid 0") {
				seen[v.Operation+" "+v.Target] = true
			}
		}
		return seen["cut "+host+", with an error"] && seen["cut 192.0.2.0/24, in silence"] && seen["restore "+host] && seen["restore all cuts"]
	})
}
