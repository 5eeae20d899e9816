package metered

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/test/provider"
)

// TestMain keeps package net/http from saying what answers nobody asked for.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	m.Run()
}

// parent carries the bytes between agents and gateway, and between gateway and provider, and does to them what it likes. It is what a host
// can do that somebody else holds: it reads and writes everything but what is inside of the enclave and of the provider.
type parent struct {
	mu   sync.Mutex
	rand *rand.Rand
	saw  map[net.Conn]*bytes.Buffer // what passed through each connection
	old  [][]byte                   // what was said first on earlier connections
	lost int                        // things done to bytes
}

// trick is what it does to a piece of bytes that one side has written: it returns what the other one gets, in pieces; end closes both.
type trick func(p *parent, piece []byte) (pieces [][]byte, end bool)

// once in so many pieces something is done, so that some calls come through.
const once = 8

var tricks = map[string]trick{
	"alters": func(p *parent, piece []byte) ([][]byte, bool) {
		if p.now() {
			piece = bytes.Clone(piece)
			piece[p.pick(len(piece))] ^= byte(1 << p.pick(8))
		}
		return [][]byte{piece}, false
	},
	"truncates": func(p *parent, piece []byte) ([][]byte, bool) {
		if p.now() {
			return [][]byte{piece[:p.pick(len(piece))]}, true
		}
		return [][]byte{piece}, false
	},
	"repeats": func(p *parent, piece []byte) ([][]byte, bool) {
		if p.now() {
			return [][]byte{piece, piece}, false
		}
		return [][]byte{piece}, false
	},
	"swallows": func(p *parent, piece []byte) ([][]byte, bool) {
		if p.now() {
			return nil, true // and ends, or the other side would wait for minutes
		}
		return [][]byte{piece}, false
	},
	"delays": func(p *parent, piece []byte) ([][]byte, bool) {
		time.Sleep(time.Duration(p.pick(20)) * time.Millisecond)
		return [][]byte{piece}, false
	},
	"says again what another connection said": func(p *parent, piece []byte) ([][]byte, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.old = append(p.old, bytes.Clone(piece))
		if p.rand.IntN(once) > 0 {
			return [][]byte{piece}, false
		}
		p.lost++
		return [][]byte{piece, p.old[p.rand.IntN(len(p.old))]}, false
	},
}

func (p *parent) pick(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rand.IntN(n)
}

func (p *parent) now() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.rand.IntN(once) == 0
	if now {
		p.lost++
	}
	return now
}

// carry copies one direction.
func (p *parent) carry(to, from net.Conn, do trick) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			p.mu.Lock()
			if p.saw[from] == nil {
				p.saw[from] = new(bytes.Buffer)
			}
			p.saw[from].Write(buffer[:n])
			p.mu.Unlock()
			pieces, end := [][]byte{buffer[:n]}, false
			if do != nil {
				pieces, end = do(p, buffer[:n])
			}
			for _, piece := range pieces {
				if _, err := to.Write(piece); err != nil {
					return
				}
			}
			if end {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// between connects a new end with address, and returns the end.
func (p *parent) between(ctx context.Context, address string, there, back trick) (net.Conn, error) {
	far, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	near, inner := net.Pipe()
	go p.carry(far, inner, there)
	go p.carry(inner, far, back)
	return near, nil
}

// leg is a direction of one of the two ways that a call takes.
type leg struct {
	name     string
	provider bool // between gateway and provider; otherwise between agent and gateway
	back     bool // answers
}

// Whatever a parent does to the bytes that it carries, no more is charged than the budget, all that is charged counts as spent, and the
// provider's key is in nothing that it sees.
func TestAParentBetween(t *testing.T) {
	for _, leg := range []leg{
		{"what agents say", false, false}, {"what agents are told", false, true}, {"what the provider is told", true, false}, {"what the provider says", true, true},
	} {
		for name, do := range tricks {
			t.Run(leg.name+", "+name, func(t *testing.T) {
				t.Parallel()
				meddle(t, leg, do)
			})
		}
	}
}

func meddle(t *testing.T, leg leg, do trick) {
	const budget = 30_000 // micro-dollars
	p := &parent{rand: rand.New(rand.NewPCG(7, uint64(len(t.Name())))), saw: make(map[net.Conn]*bytes.Buffer)}
	ways := func(here bool) (there, back trick) {
		switch {
		case !here:
			return nil, nil
		case leg.back:
			return nil, do
		default:
			return do, nil
		}
	}
	w := Open(t, Options{Budget: "0.03", Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		there, back := ways(leg.provider)
		return p.between(ctx, address, there, back)
	}})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		there, back := ways(!leg.provider)
		return p.between(ctx, w.Address, there, back)
	}}
	defer transport.CloseIdleConnections()
	var callers sync.WaitGroup
	for i := range 6 {
		callers.Go(func() {
			for range 10 {
				ask(t, transport, w, i%2 == 0)
			}
		})
	}
	callers.Wait()
	spent, account := w.Spent(), w.Provider.Account()
	if account.Charged > spent || spent > budget {
		t.Errorf("%s charged, %s counts as spent, of %s", account.Charged, spent, cost.Amount(budget))
	}
	if account.Charged == 0 {
		t.Error("no call came through, so nothing was tried")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, saw := range p.saw {
		if bytes.Contains(saw.Bytes(), []byte(Secret)) {
			t.Error("the parent has seen the provider's key")
		}
	}
	t.Logf("%d calls charged %s of %s spent; %d tricks", account.Calls, account.Charged, spent, p.lost)
}

// ask makes a call, and does not mind what becomes of it.
func ask(t *testing.T, transport http.RoundTripper, w *World, stream bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	body := fmt.Sprintf(`{"model":"m","max_tokens":300,"stream":%v,"messages":[{"role":"user","content":"some words that come back"}]}`, stream)
	response, err := transport.RoundTrip(w.Request(ctx, "/openai/v1/chat/completions", body))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

// A parent that answers in the provider's stead is told nothing, and no call counts.
func TestAParentInTheProvidersStead(t *testing.T) {
	impostor, err := provider.New(provider.Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go impostor.Serve(listener)
	defer listener.Close()
	w := Open(t, Options{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listener.Addr().String())
	}})
	response, err := http.DefaultTransport.RoundTrip(w.Request(t.Context(), "/openai/v1/chat/completions", `{"model":"m","max_tokens":9,"messages":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadGateway || w.Spent() != 0 || impostor.Account().Requests != 0 {
		t.Errorf("status %d, %s spent, the impostor got %d requests", response.StatusCode, w.Spent(), impostor.Account().Requests)
	}
}

// A parent that keeps what a gateway said to a provider and says it again, later and on a connection of its own, makes no call of it.
func TestAParentThatReplays(t *testing.T) {
	p := &parent{saw: make(map[net.Conn]*bytes.Buffer)}
	w := Open(t, Options{Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		return p.between(ctx, address, nil, nil)
	}})
	ask(t, http.DefaultTransport, w, false)
	w.Agree()
	before := w.Provider.Account()
	if before.Calls != 1 {
		t.Fatalf("%+v", before)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, said := range p.saw {
		conn, err := net.Dial("tcp", w.Upstream)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(said.Bytes())
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	if after := w.Provider.Account(); after != before {
		t.Errorf("%+v, before %+v", after, before)
	}
}
