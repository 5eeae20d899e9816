package fleet

import (
	"context"
	"net"
	"sync"
	"testing"
)

// line is what lies between enclave and controller in a parent's hands: it carries so many bytes of what the controller sends as they
// are, and then does something to them.
type line struct {
	net.Conn
	mu    *sync.Mutex
	after *int // bytes until it happens; below 0: never
	cut   bool // it breaks off; else a bit is changed
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if *l.after < 0 || n <= 0 {
		return n, err
	}
	if n <= *l.after {
		*l.after -= n
		return n, err
	}
	at := *l.after
	*l.after = -1 // once
	if l.cut {
		l.Conn.Close()
		return at, err
	}
	p[at] ^= 1
	return n, err
}

// Whatever byte of the controller's the parent changes, and wherever it breaks off, the outcome is a result and a secret as the controller
// sent them, or an error, after which the next attempt goes well.
func TestHostileLine(t *testing.T) {
	noticed := 0
	for _, cut := range []bool{false, true} {
		for after := 0; after < 4000; after += 211 {
			controller := newController(t)
			controller.secrets = []*plain{secretOf("a", 1, "value")}
			var mu sync.Mutex
			left := after
			c := controller.client(func(o *Options) {
				dial := o.Dial
				o.Dial = func(ctx context.Context, host string, port uint16) (net.Conn, error) {
					conn, err := dial(ctx, host, port)
					if err != nil {
						return nil, err
					}
					return &line{Conn: conn, mu: &mu, after: &left, cut: cut}, nil
				}
			})
			_, err := c.round(t.Context())
			_, attested := c.Attested()
			if value, secretErr := c.Secret("a"); secretErr == nil && (string(value) != "value" || attested != nil) {
				t.Fatalf("cut %v after %d: secret %q, %v", cut, after, value, attested)
			}
			mu.Lock()
			happened := left < 0
			mu.Unlock()
			if err != nil {
				noticed++
			} else if value, err := c.Secret("a"); attested != nil || err != nil || string(value) != "value" { // it came too late to matter
				t.Fatalf("cut %v after %d: nobody noticed: %v; %q, %v", cut, after, attested, value, err)
			}
			if !happened {
				break // more than this is not sent
			}
			eventually(t, "the next attempt", func() bool {
				_, err := c.round(t.Context())
				return err == nil
			})
			if value, err := c.Secret("a"); err != nil || string(value) != "value" {
				t.Fatalf("cut %v after %d, then: %q, %v", cut, after, value, err)
			}
			controller.stop()
		}
	}
	if noticed < 10 {
		t.Errorf("only %d attempts failed", noticed)
	}
}
