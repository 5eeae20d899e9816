package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/gateway/dialect"
)

// A run has room for the largest request and no more than its share; the others keep theirs, and what was given back can be used again.
func TestRequestsHaveRoomTogether(t *testing.T) {
	g := &Gateway{}
	read := func(run string, size int) (func(), error) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, size)))
		body, free, err := g.body(httptest.NewRecorder(), r, run)
		if err == nil && len(body) != size {
			t.Errorf("%d bytes of %d", len(body), size)
		}
		return free, err
	}
	reason := func(err error) dialect.Reason {
		var refusal *dialect.Refusal
		if !errors.As(err, &refusal) {
			t.Fatalf("%v", err)
		}
		return refusal.Reason
	}
	for _, size := range []int{0, 1, firstBody - 1, firstBody, firstBody + 1, 1 << 20} {
		free, err := read("a", size)
		if err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		free()
	}
	largest, err := read("a", dialect.MaxBody)
	if err != nil {
		t.Fatal(err)
	}
	free, err := read("a", dialect.MaxBody/2)
	if err == nil || reason(err) != dialect.Unavailable {
		t.Errorf("beyond the run's share: %v", err)
	}
	free()
	other, err := read("b", 1<<20)
	if err != nil {
		t.Errorf("another run: %v", err)
	}
	other()
	free, err = read("b", dialect.MaxBody+1)
	if err == nil {
		t.Error("too large a request is read")
	}
	free()
	largest()
	largest()
	if g.bodies.all != 0 || len(g.bodies.of) != 0 {
		t.Errorf("%d bytes are taken by %v when nothing is read", g.bodies.all, g.bodies.of)
	}
	free, err = read("a", dialect.MaxBody+1)
	if err == nil || reason(err) != dialect.TooLarge {
		t.Errorf("too large a request: %v", err)
	}
	free()
	broken := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader("half"), failing{}))
	if _, free, err = g.body(httptest.NewRecorder(), broken, "a"); err == nil || reason(err) != dialect.Invalid {
		t.Errorf("a request that breaks off: %v", err)
	}
	free()
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What is kept of answers to find their usage has room too: of one that finds none nobody will know the usage, and it is handed on all the same.
func TestAnswersHaveRoomTogether(t *testing.T) {
	meter := func(contentType string) *dialect.Meter {
		r, err := dialect.Read(dialect.OpenAI, http.MethodPost, "/v1/chat/completions", []byte(`{"model":"m","max_tokens":9,"stream":true,"messages":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		call, err := r.Prepare(dialect.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return call.Meter(contentType)
	}
	for contentType, c := range map[string]struct{ begin, rest string }{
		"application/json":  {"{", `"usage":{"prompt_tokens":1,"completion_tokens":1}}`},
		"text/event-stream": {"data: {", `"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\n\ndata: [DONE]\n\n"},
	} {
		for _, others := range []int64{0, maxAnswers - 8} {
			g := &Gateway{}
			g.answers.Add(others)
			m, room := meter(contentType), kept{all: &g.answers}
			out := string(room.feed(m, []byte(c.begin)))
			out += string(room.feed(m, []byte(c.rest)))
			rest, _, ok := m.End(true)
			if out += string(rest); ok != (others == 0) || out != c.begin+c.rest {
				t.Errorf("%s beside %d bytes: usage known: %v, handed on %q", contentType, others, ok, out)
			}
			room.free()
			if left := g.answers.Load(); left != others {
				t.Errorf("%s: %d bytes are kept after the end of one", contentType, left-others)
			}
		}
	}
}
