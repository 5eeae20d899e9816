package netguard

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestCut: what an operator cuts is silent in both directions from the next packet on, in open flows too, whatever rules and mode grant it,
// and nothing else is; restored, it goes on.
func TestCut(t *testing.T) {
	prefix := func(s string) Cut { return Cut{Address: netip.MustParsePrefix(s)} }
	for _, c := range []struct {
		name string
		cuts []Cut
		cut  []string // of these flows, the others go on
	}{
		{"everything", []Cut{{}}, []string{"10.77.0.2:80", "10.77.1.2:80", "[fd77::2]:80"}},
		{"an address", []Cut{prefix("10.77.0.2/32")}, []string{"10.77.0.2:80"}},
		{"a network", []Cut{prefix("10.77.0.0/16")}, []string{"10.77.0.2:80", "10.77.1.2:80"}},
		{"of another family", []Cut{prefix("fd00::/8")}, []string{"[fd77::2]:80"}},
		{"two", []Cut{prefix("fd00::/8"), prefix("10.77.1.0/24")}, []string{"[fd77::2]:80", "10.77.1.2:80"}},
		{"a name", []Cut{{Name: "a.example.com"}}, []string{"10.77.1.2:80"}},
		{"names", []Cut{{Name: "*.example.com"}}, []string{"10.77.1.2:80"}},
		{"another name", []Cut{{Name: "*.a.example.com"}}, nil},
	} {
		for _, mode := range []policy.Mode{policy.Enforce, policy.Audit} {
			t.Run(c.name+", "+string(mode), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				all := []string{"10.77.0.2:80", "10.77.1.2:80", "[fd77::2]:80"}
				for _, to := range all {
					w.serve(t, w.far, mustAddr(to))
				}
				w.capture(t)
				g := w.load(t, Options{})
				events := record(t, g)
				a := w.newAgent(t, "agent")
				arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2", "private *.example.com:80", "fd77::2"}}, mode)
				must(t, g.GrantName(a.id, "a.example.com", second4, 80, time.Hour))
				open := map[string]*probe{}
				for _, to := range all {
					for _, do := range []string{"open", "open-udp"} {
						p := w.startProbe(t, a.fd)
						p.expect(action{Do: do, To: mustAddr(to)}, "", answer)
						open[do+" "+to] = p
					}
				}
				must(t, g.Cut(a.id, c.cuts))
				w.settle()
				isCut := map[string]bool{}
				for _, to := range c.cut {
					isCut[to] = true
				}
				for key, p := range open { // first what is not cut: of the rest nothing may come
					if !isCut[key[indexOf(key)+1:]] {
						p.expect(action{Do: "say"}, "", answer)
					}
				}
				for _, to := range all {
					if !isCut[to] {
						w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr(to)}, "", answer)
					}
				}
				w.settle()
				for key, p := range open {
					if isCut[key[indexOf(key)+1:]] {
						p.expect(action{Do: "say"}, silence, "")
					}
				}
				for _, to := range all {
					if !isCut[to] {
						continue
					}
					w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr(to)}, silence, "")
					w.startProbe(t, a.fd).expect(action{Do: "udp", To: mustAddr(to)}, silence, "")
					if e := events.wait(t, "of the cut", func(e Event) bool { return e.Reason == Severed }); e.Mode != policy.Enforce || e.Errno != 0 {
						t.Errorf("event %+v", e)
					}
				}
				if arrived, packets := w.rest(); len(arrived)+len(packets) != 0 {
					t.Errorf("the far end saw %q %q", arrived, packets)
				}
				isName := c.cuts[0].Name != "" && len(c.cut) > 0
				if err := g.GrantName(a.id, "a.example.com", second4, 80, time.Hour); errors.Is(err, ErrCut) != isName || !isName && err != nil {
					t.Errorf("granting a name: %v", err)
				}
				must(t, g.Cut(a.id, nil))
				must(t, g.GrantName(a.id, "a.example.com", second4, 80, time.Hour))
				for _, to := range all {
					w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr(to)}, "", answer)
				}
				for key, p := range open {
					if key[:8] == "open-udp" {
						p.expect(action{Do: "say"}, "", answer)
					}
				}
			})
		}
	}
}

func indexOf(s string) int {
	for i := range s {
		if s[i] == ' ' {
			return i
		}
	}
	return -1
}

// TestCutWithReject: open streams are reset at both ends, new calls fail at once.
func TestCutWithReject(t *testing.T) {
	for _, cut := range []Cut{{Reject: true}, {Address: netip.MustParsePrefix("10.77.0.2/32"), Reject: true}, {Name: "a.example.com", Reject: true}} {
		t.Run(cut.String(), func(t *testing.T) {
			w := newWorld(t)
			w.serve(t, w.far, mustAddr("10.77.0.2:80"))
			g := w.load(t, Options{})
			a := w.newAgent(t, "agent")
			arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.3", "private a.example.com"}}, policy.Enforce)
			must(t, g.GrantName(a.id, "a.example.com", far4, 0, time.Hour))
			p := w.startProbe(t, a.fd)
			p.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
			w.in(t, w.near, func() { must(t, g.Cut(a.id, []Cut{cut})) })
			if o := p.do(action{Do: "say", Data: "hello"}); o.Err != "ECONNABORTED" && o.Err != "EPIPE" {
				t.Errorf("an open stream got %+v, want it ended", o)
			}
			w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
			w.startProbe(t, a.fd).expect(action{Do: "udp", To: mustAddr("10.77.0.2:80")}, refused, "")
			for range 100 {
				w.mu.Lock()
				ended := w.resets
				w.mu.Unlock()
				if ended > 0 {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Error("the far end's stream was not reset")
		})
	}
}

// TestCutStays: a cut holds while raypherd is away, and after it is back.
func TestCutStays(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	bpffs := t.TempDir()
	must(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bpffs, 0)) })
	pins := filepath.Join(bpffs, "guard")
	first := w.load(t, Options{PinDir: pins})
	a := w.newAgent(t, "agent")
	n := &policy.Network{Egress: []string{"10.77.0.2"}}
	arm(t, first, a, n, policy.Enforce)
	must(t, first.Cut(a.id, []Cut{{}}))
	must(t, first.Close())
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, silence, "")
	second := w.load(t, Options{PinDir: pins})
	p.expect(action{Do: "udp", To: mustAddr("10.77.0.2:80")}, silence, "")
	if err := second.Cut(a.id, nil); err == nil {
		t.Error("an agent was restored whose rules were not known")
	}
	second.Remember(a.id, n, []Cut{{}})
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, silence, "")
	arm(t, second, a, n, policy.Enforce)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, silence, "")
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("the far end saw %q %q", arrived, packets)
	}
	must(t, second.Cut(a.id, nil))
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	must(t, second.Unpin())
}
