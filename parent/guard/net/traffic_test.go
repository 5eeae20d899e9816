package netguard

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/policy"
)

// trafficOf waits for an agent's counters to come to rest and returns them by the words of its rules.
func trafficOf(t testing.TB, g *Guard, a agent, n *policy.Network) map[string]Traffic {
	t.Helper()
	all, err := g.Traffic()
	must(t, err)
	names, by := RuleNames(n), map[string]Traffic{}
	for id, sum := range all[a.id] {
		if names[id] == "" {
			t.Errorf("rule %#x has no name", id)
		}
		by[names[id]] = sum
	}
	return by
}

// TestTraffic: every packet is counted once, for the rule that let it through or as dropped, with its bytes on the wire.
func TestTraffic(t *testing.T) {
	w := newWorld(t)
	for _, to := range []string{"10.77.0.2:80", "10.77.1.2:80", "[fd77::2]:80"} {
		w.serve(t, w.far, mustAddr(to))
	}
	g := w.load(t, Options{})
	a, other := w.newAgent(t, "agent"), w.newAgent(t, "other")
	n := &policy.Network{Egress: []string{"10.77.0.2:80", "private *.example.com:80", "0.0.0.0/0:81"}, Listen: []string{"9001"}, Ingress: []string{"fd77::/64"}}
	arm(t, g, a, n, policy.Enforce)
	arm(t, g, other, n, policy.Enforce)
	must(t, g.GrantName(a.id, "a.example.com", second4, 80, time.Hour))
	const times, header4, said = 20, 28, len("you said ") // IP and UDP
	p := w.startProbe(t, a.fd)
	for range times {
		p.expect(action{Do: "udp", To: mustAddr("10.77.0.2:80"), Data: "0123456789"}, "", "you said 0123456789")
		p.expect(action{Do: "udp", To: mustAddr("10.77.1.2:80"), Data: "01234"}, "", "you said 01234")
	}
	p.expect(action{Do: "burst", To: mustAddr("10.77.0.2:7"), Data: "same"}, "", "") // 1000, to nowhere
	p.expect(action{Do: "udp", To: mustAddr("127.0.0.1:81"), Data: "0123456789"}, silence, "")
	for _, from := range []string{"10.77.0.2", "10.77.0.2"} {
		p.expect(action{Do: "serve-udp", To: mustAddr("0.0.0.0:9001")}, "", "")
		done := make(chan outcome)
		go func() { done <- p.do(action{Do: "answer-udp"}) }()
		w.startProbeIn(t, w.far, -1).expect(action{Do: "from-udp", To: mustAddr("10.77.0.1:9001"), Path: from}, "", "hello")
		<-done
		p.expect(action{Do: "unlisten"}, "", "")
	}
	got := trafficOf(t, g, a, n)
	for rule, want := range map[string]Traffic{
		"egress 10.77.0.2:80":             {PacketsOut: times, BytesOut: times * (header4 + 10), PacketsIn: times, BytesIn: times * (header4 + uint64(said) + 10)},
		"egress private *.example.com:80": {PacketsOut: times, BytesOut: times * (header4 + 5), PacketsIn: times, BytesIn: times * (header4 + uint64(said) + 5)},
		"listen 9001":                     {PacketsOut: 2, BytesOut: 2 * (header4 + 5), PacketsIn: 2, BytesIn: 2 * (header4 + 5)},
		"default":                         {DroppedPackets: 1000, DroppedBytes: 1000 * (header4 + 1)},
		"default (reserved address)":      {DroppedPackets: 1, DroppedBytes: header4 + 10},
	} {
		if got[rule] != want {
			t.Errorf("%s: %+v, want %+v", rule, got[rule], want)
		}
		delete(got, rule)
	}
	if len(got) != 0 {
		t.Errorf("traffic of other rules: %+v", got)
	}
	must(t, g.Cut(a.id, []Cut{{}}))
	p.expect(action{Do: "udp", To: mustAddr("10.77.0.2:80")}, silence, "")
	if c := trafficOf(t, g, a, n)["cut"]; c.DroppedPackets != 1 {
		t.Errorf("cut: %+v, want one dropped packet", c)
	}
	if others := trafficOf(t, g, other, n); len(others) != 0 {
		t.Errorf("the other agent has %+v", others)
	}
	must(t, g.Disarm(a.id))
	if left := trafficOf(t, g, a, n); len(left) != 0 {
		t.Errorf("after its end: %+v", left)
	}
}

// TestReloadsUnderTraffic: a thousand changes of the rules drop no packet that all of them grant and let none through that none does, also
// while other agents' entries are written all the time.
func TestReloadsUnderTraffic(t *testing.T) {
	const reloads = 1000
	w := newWorld(t)
	for _, to := range []string{"10.77.0.2:80", "10.77.0.2:81", "10.77.1.2:80"} {
		w.serve(t, w.far, mustAddr(to))
	}
	w.capture(t)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	rules := []*policy.Network{
		{Egress: []string{"10.77.0.2:80", "10.77.0.2:7"}}, {Egress: []string{"10.77.0.0/24:80"}, Listen: []string{"9000"}}, {Egress: []string{"10.77.0.2:80"}, DefaultAction: policy.Drop, Ingress: []string{"9000"}},
	}
	arm(t, g, a, rules[0], policy.Enforce)
	wide := &policy.Network{DefaultAction: policy.Allow}
	for i := range 8 {
		must(t, g.Arm(Agent{CgroupID: 1<<40 + uint64(i), Network: wide, Deadline: later()}))
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	until := func(work func(i int)) {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					work(i)
				}
			}
		})
	}
	udp, tcp, outcast := w.startProbe(t, a.fd), w.startProbe(t, a.fd), w.startProbe(t, a.fd)
	tcp.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
	var asked [2]int
	until(func(i int) { asked[0] = i; udp.expect(action{Do: "udp", To: mustAddr("10.77.0.2:80")}, "", answer) })
	until(func(i int) { asked[1] = i; tcp.expect(action{Do: "say"}, "", answer) })
	until(func(int) { outcast.do(action{Do: "burst", To: mustAddr("10.77.1.2:80"), Data: "same"}) })
	until(func(i int) { must(t, g.Renew(1<<40+uint64(i%8), later())) })
	for i := range reloads {
		must(t, g.Replace(a.id, rules[i%len(rules)]))
	}
	close(stop)
	running.Wait()
	w.settle()
	t.Logf("%d datagrams and %d segments were answered meanwhile", asked[0], asked[1])
	if asked[0] < 100 || asked[1] < 100 {
		t.Errorf("only %v exchanges in %d reloads", asked, reloads)
	}
	sent := trafficOf(t, g, a, &policy.Network{Egress: []string{"10.77.0.2:80", "10.77.0.2:7", "10.77.0.0/24:80"}, Listen: []string{"9000"}, Ingress: []string{"9000"}})
	if d := sent["default"]; d.PacketsOut+d.PacketsIn != 0 || d.DroppedPackets == 0 {
		t.Errorf("what nothing grants: %+v; want all of it dropped", d)
	}
	for rule, sum := range sent {
		if rule != "default" && sum.DroppedPackets != 0 {
			t.Errorf("%s: %+v; want nothing dropped", rule, sum)
		}
	}
}

// TestThousandAgents: a thousand agents with a hundred rules each fit, each has its own, what they take is bounded and known, and what does
// not fit is refused in words.
func TestThousandAgents(t *testing.T) {
	const agents, each = 1000, 100
	w := newWorld(t)
	g := w.load(t, Options{})
	rulesFor := func(i int) *policy.Network {
		n := &policy.Network{OnDeny: policy.Reject}
		for j := range each - 1 {
			n.Egress = append(n.Egress, "10."+strconv.Itoa(i%256)+"."+strconv.Itoa(j)+".0/24:443")
		}
		n.Egress = append(n.Egress, "127.0.0.1:"+strconv.Itoa(20000+i))
		return n
	}
	real := map[int]agent{}
	for _, i := range []int{0, 499, 999} {
		real[i] = w.newAgent(t, "agent"+strconv.Itoa(i))
		w.serve(t, w.near, at(lo4, uint16(20000+i)))
	}
	begun := time.Now()
	for i := range agents {
		id := uint64(1<<41 + i)
		if a, ok := real[i]; ok {
			id = a.id
		}
		must(t, g.Arm(Agent{CgroupID: id, Network: rulesFor(i), Deadline: later()}))
	}
	took := time.Since(begun)
	for i, a := range real {
		p := w.startProbe(t, a.fd)
		for j := range real {
			want, data := refused, ""
			if i == j {
				want, data = "", answer
			}
			p.expect(action{Do: "tcp", To: at(lo4, uint16(20000+j))}, want, data)
		}
	}
	shared, one, err := g.Memory(real[0].id)
	must(t, err)
	t.Logf("armed in %v (%v each); the guard takes %d KiB for all agents, and %d KiB for one with %d rules", took, took/agents, shared>>10, one>>10, each)
	if one > 64<<10 || shared > 64<<20 {
		t.Errorf("an agent takes %d bytes, all together %d", one, shared)
	}
	var full error
	for i := agents; i < 10_000 && full == nil; i++ {
		full = g.Arm(Agent{CgroupID: uint64(1<<41 + i), Network: &policy.Network{Egress: []string{"10.0.0.1"}}, Deadline: later()})
	}
	if !errors.Is(full, ErrFull) {
		t.Errorf("beyond the room: %v; want %v", full, ErrFull)
	}
	w.startProbe(t, real[0].fd).expect(action{Do: "tcp", To: at(lo4, 20000)}, "", answer)
}
