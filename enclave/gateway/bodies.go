package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raypher/raypher/enclave/gateway/dialect"
)

// Bounds of requests that are being read, understood and sent, in bytes. What has arrived counts, not what was announced.
const (
	maxBodies    = 64 << 20 // of all runs together
	maxBodiesOne = 40 << 20 // of one run: one request of the largest size and some of the usual ones
	firstBody    = 16 << 10 // room that each request has at first
	bodyTimeout  = 2 * time.Minute
	// maxAnswers is what is kept of all answers to find their usage.
	maxAnswers = 128 << 20
)

// kept is what is kept of one answer. Of one that finds no room nothing is, and nobody will know what it used.
type kept struct {
	all   *atomic.Int64 // of all answers
	bytes int64
}

// feed is m.Feed.
func (k *kept) feed(m *dialect.Meter, p []byte) []byte {
	out := m.Feed(p)
	more := m.Kept() - k.bytes
	k.bytes += more
	if k.all.Add(more) > maxAnswers && more > 0 {
		out = append(out, m.Forget()...)
	}
	return out
}

// free gives the room back.
func (k *kept) free() { k.all.Add(-k.bytes) }

// bodies is the room for requests. A run that fills its own leaves the others theirs.
type bodies struct {
	mu  sync.Mutex
	all int
	of  map[string]int
}

func (b *bodies) take(run string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+n > maxBodies || b.of[run]+n > maxBodiesOne {
		return false
	}
	if b.of == nil {
		b.of = make(map[string]int)
	}
	b.all += n
	b.of[run] += n
	return true
}

func (b *bodies) give(run string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.of[run] -= n; b.of[run] == 0 {
		delete(b.of, run)
	}
}

// body reads a request of a run. Its room is given back by free, in any case.
func (g *Gateway) body(w http.ResponseWriter, r *http.Request, run string) (body []byte, free func(), err error) {
	taken := 0
	free = sync.OnceFunc(func() { g.bodies.give(run, taken) })
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(bodyTimeout)) // a connection that takes none is one of tests
	for {
		if len(body) == cap(body) {
			more := min(max(firstBody, cap(body)), dialect.MaxBody+1-cap(body)) // and one, to see that it ends
			if !g.bodies.take(run, more) {
				return nil, free, &dialect.Refusal{Reason: dialect.Unavailable, Message: "too many large requests at once: try again later"}
			}
			taken += more
			body = append(make([]byte, 0, taken), body...)
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > dialect.MaxBody:
			return nil, free, &dialect.Refusal{Reason: dialect.TooLarge, Message: fmt.Sprintf("the request has more than %d bytes", dialect.MaxBody)}
		case errors.Is(err, io.EOF):
			_ = connection.SetReadDeadline(time.Time{}) // from here on it says whether the client is there
			return body, free, nil
		case err != nil:
			return nil, free, &dialect.Refusal{Reason: dialect.Invalid, Message: "the request broke off"}
		}
	}
}
