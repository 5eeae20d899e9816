package daemon

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// asking is a policy under which bash works in the pair's folder, and a person is asked about some of it.
func (p *pair) asking(network, more string) string {
	return p.write("asking.yaml", strings.ReplaceAll(`
mode: enforce
filesystem:
  read: [/usr/**, /bin/**, /lib/**, /lib64/**, /etc/**, /dev/**, DIR/**]
  write: [DIR/**, /dev/null]
  exec: ["/usr/bin/**", "/bin/**"]
  require_approval: [DIR/secret, DIR/ask/**]
network:
  on_deny: reject
  require_approval: [`+network+`]
`+more, "DIR", p.dir))
}

// question waits for the only open question and returns it.
func (p *pair) question(operation string) *parentv1.ApprovalQuestion {
	p.t.Helper()
	var q *parentv1.ApprovalQuestion
	p.eventually("a question about "+operation, func() bool {
		reply, err := p.operator().ListApprovals(context.Background(), &parentv1.ListApprovalsRequest{})
		if err == nil && len(reply.Questions) == 1 && reply.Questions[0].Operation == operation {
			q = reply.Questions[0]
		}
		return q != nil
	})
	return q
}

// say runs a command to its end and returns what it printed.
func (p *pair) say(args ...string) string {
	p.t.Helper()
	cmd, out := p.raypher(args...)
	if err := cmd.Wait(); err != nil {
		p.t.Errorf("%v: %v, %s", args, err, out)
	}
	return out.String()
}

// answers are the approvals in the journal.
func (p *pair) answers() (all []*journal.Approval) {
	p.t.Helper()
	stream, err := p.operator().ListEvidence(context.Background(), &parentv1.ListEvidenceRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	for {
		item, err := stream.Recv()
		if err == io.EOF {
			return all
		}
		if err != nil {
			p.t.Fatal(err)
		}
		if len(item.Approval) == 0 {
			continue
		}
		a, err := journal.DecodeApproval(item.Approval)
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, a)
	}
}

// TestApprovalsOfARealRun: a file, a destination and a removal wait for an operator, also over a crash of raypherd, and each answer
// is in the journal with who gave it.
func TestApprovalsOfARealRun(t *testing.T) {
	p := newPair(t).start()
	host := listener(t)
	address, port, _ := strings.Cut(host, ":")
	p.write("secret", "the secret\n")
	p.write("gone", "")
	connect := fmt.Sprintf("(exec 3<>/dev/tcp/%s/%s) && echo connected $1", address, port)
	policy := p.asking(host, "")
	run, out := p.raypher("run", "--policy", policy, "--name", "asker", "--", "bash", "-c",
		"cat secret; "+strings.Replace(connect, "$1", "once", 1)+"; "+strings.Replace(connect, "$1", "twice", 1)+
			"; mkdir ask; cat secret || echo denied; echo over")

	q := p.question("open-read")
	p.eventually("the person at the terminal is told", func() bool { return strings.Contains(out.String(), "raypher approvals approve "+q.Id) })
	if list := p.say("approvals", "list"); !strings.Contains(list, q.Id) || !strings.Contains(list, p.dir+"/secret") || !strings.Contains(list, "asker") {
		t.Errorf("approvals list says %s", list)
	}
	p.end(syscall.SIGKILL)
	p.start()
	if again := p.question("open-read"); again.Id != q.Id || again.Target != p.dir+"/secret" {
		t.Errorf("after a restart it is asked %v, not %v", again, q)
	}
	if strings.Contains(out.String(), "the secret") {
		t.Fatal("it was read before anybody agreed")
	}
	if said := p.say("approvals", "approve", q.Id); !strings.Contains(said, "approved "+q.Id) {
		t.Error(said)
	}
	p.eventually("the file is read", func() bool { return strings.Contains(out.String(), "the secret") })

	q = p.question("connect")
	if q.Target != host+"/tcp" || q.Rule != host {
		t.Errorf("asked about %v", q)
	}
	if said := p.say("approvals", "approve", "--for", "run", "--always", q.Id); !strings.Contains(said, "proposed "+p.paths.Proposals) {
		t.Error(said)
	}
	p.eventually("it connects, the second time unasked", func() bool { return strings.Contains(out.String(), "connected twice") })
	if said := p.say("approvals", "proposals"); !strings.Contains(said, `egress: ["`+host+`"]`) {
		t.Error(said)
	}
	p.say("approvals", "deny", p.question("mkdir").Id)
	p.say("approvals", "deny", p.question("open-read").Id)
	if err := run.Wait(); err != nil || !strings.Contains(out.String(), "denied") || !strings.Contains(out.String(), "Permission denied") {
		t.Errorf("%v: %s", err, out)
	}
	var got []string
	for _, a := range p.answers() {
		if a.Who == nil || a.Who.UID != 0 || a.Who.User != "root" {
			t.Errorf("answered by %+v", a.Who)
		}
		got = append(got, a.Decision+" "+a.Question.Operation+" "+a.Scope)
	}
	if want := "approve open-read once, approve connect run, deny mkdir once, deny open-read once"; strings.Join(got, ", ") != want {
		t.Errorf("the journal has %q, want %s", got, want)
	}
	if said := p.say("approvals", "list"); !strings.Contains(said, "nothing waits") {
		t.Error(said)
	}
}

// TestApprovalOfManyCalls: one question stands for all equal calls, says how many wait, and one answer is for all of them.
func TestApprovalOfManyCalls(t *testing.T) {
	p := newPair(t).start()
	p.write("secret", "the secret\n")
	run, out := p.raypher("run", "--policy", p.asking("192.0.2.1", ""), "--", "bash", "-c", "cat secret & cat secret & cat secret & gone=$!; while [ ! -e go ]; do sleep 0.05; done; kill -9 $gone; wait")
	p.eventually("three calls wait", func() bool { return p.question("open-read").Calls == 3 })
	if said := p.say("approvals", "list"); !strings.Contains(said, "CALLS") || !strings.Contains(said, "  3  ") {
		t.Error(said)
	}
	p.write("go", "")
	p.eventually("one of them is gone", func() bool { return p.question("open-read").Calls == 2 })
	p.say("approvals", "approve", p.question("open-read").Id)
	if err := run.Wait(); err != nil || strings.Count(out.String(), "the secret") != 2 {
		t.Errorf("%v: %s", err, out)
	}
	if all := p.answers(); len(all) != 1 {
		t.Errorf("the journal has %+v", all)
	}
}

// TestApprovalTimesOut: nobody answers, the call fails, and that is on record; nothing is permanent by it.
func TestApprovalTimesOut(t *testing.T) {
	p := newPair(t).start()
	p.write("secret", "the secret\n")
	run, out := p.raypher("run", "--policy", p.asking("192.0.2.1", "approval: {timeout: 1s}\n"), "--", "bash", "-c", "cat secret; cat secret")
	if err := run.Wait(); err == nil || strings.Contains(out.String(), "the secret") || strings.Count(out.String(), "Permission denied") != 2 {
		t.Errorf("%v: %s", err, out)
	}
	all := p.answers()
	if len(all) != 2 || all[0].Decision != journal.Timeout || all[0].Who != nil {
		t.Errorf("the journal has %+v", all)
	}
}

// TestNobodyInsideAnswers: neither the agent nor its warden can answer a question.
func TestNobodyInsideAnswers(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, fmt.Sprintf(`"$ASK" %[1]s answer; "$ASK" %[2]s answer; echo done; sleep 1000`, p.address(), p.paths.Socket))
	w.printed("done")
	w.mu.Lock()
	for _, s := range w.said {
		if strings.Contains(s.Agent, "answered") {
			t.Errorf("the agent %s", s.Agent)
		}
	}
	w.mu.Unlock()
	if answer := w.asked(p.paths.Socket, "answer"); !strings.Contains(answer, "not allowed") || !strings.Contains(answer, "agent") {
		t.Errorf("the warden answers: %s", answer)
	}
	if _, err := ask([]string{p.paths.Socket, "answer"}); err == nil || !strings.Contains(err.Error(), "no such question") {
		t.Errorf("an operator: %v", err)
	}
}

// TestApprovalOfAName: an address that a name asks about is asked about under that name, and one that nothing asks about is left to
// the network guard at once.
func TestApprovalOfAName(t *testing.T) {
	p := newPair(t).start()
	_, port, _ := strings.Cut(listener(t), ":")
	_, other, _ := strings.Cut(listener(t), ":")
	run, out := p.raypher("run", "--policy", p.asking(`"localhost:`+port+`"`, ""), "--", "bash", "-c",
		"(exec 3<>/dev/tcp/127.0.0.1/"+other+") || echo refused; (exec 3<>/dev/tcp/127.0.0.1/"+port+") && echo connected")
	q := p.question("connect")
	if q.Other != "localhost" || q.Rule != "localhost:"+port || !strings.Contains(out.String(), "refused") {
		t.Errorf("asked %v after %s", q, out)
	}
	p.say("approvals", "approve", q.Id)
	if err := run.Wait(); err != nil || !strings.Contains(out.String(), "connected") {
		t.Errorf("%v: %s", err, out)
	}
}
