package provider

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/raypher/raypher/cost/prices"
)

const key = "sk-scripted"

var rates = &prices.Rates{Band: prices.Band{Input: 1_000_000, Output: 4_000_000}} // a token costs 1 and 4

func start(t *testing.T) (*Provider, func(path, body string) (int, string, error)) {
	p, err := New(Options{Key: key, Rates: func(model string) (*prices.Rates, bool) { return rates, model == "m" }})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go p.Serve(listener)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.Roots()}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, listener.Addr().String())
		},
	}
	t.Cleanup(func() { transport.CloseIdleConnections(); listener.Close() })
	return p, func(path, body string) (int, string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://provider.test"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Api-Key", key)
		response, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return response.StatusCode, string(text), err
	}
}

// What is charged is what was worked on, heard or not, in each protocol.
func TestWhatIsCharged(t *testing.T) {
	const chat, stream = `{"model":"m","max_tokens":3,"messages":[{"role":"user","content":"%s"}]}`, `{"model":"m","max_tokens":3,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"%s"}]}`
	cases := map[string]struct {
		path, body, says string
		status           int
		has              string
		cut, free        bool
	}{
		"chat":          {path: "/v1/chat/completions", body: chat, says: "hello", status: 200, has: `"completion_tokens":3`},
		"chat, stream":  {path: "/v1/chat/completions", body: stream, says: "hello", status: 200, has: `"completion_tokens":3`},
		"responses":     {path: "/v1/responses", body: `{"model":"m","max_output_tokens":3,"input":"%s"}`, says: "hello", status: 200, has: `"output_tokens":3`},
		"messages":      {path: "/v1/messages", body: chat, says: "hello", status: 200, has: `"output_tokens":3`},
		"generate":      {path: "/v1beta/models/m:generateContent", body: `{"generationConfig":{"maxOutputTokens":3},"contents":[{"role":"user","parts":[{"text":"%s"}]}]}`, says: "hello", status: 200, has: `"candidatesTokenCount":3`},
		"a tool":        {path: "/v1/messages", body: chat, says: `!call look {\"at\":1}`, status: 200, has: `"name":"look"`},
		"breaks off":    {path: "/v1/chat/completions", body: stream, says: "!breaks", status: 200, cut: true},
		"breaks, whole": {path: "/v1/chat/completions", body: chat, says: "!breaks", status: 200, cut: true},
		"fails":         {path: "/v1/messages", body: chat, says: "!fails", status: 500, has: `"type":"error"`},
		"says nothing":  {path: "/v1/chat/completions", body: chat, says: "!silent", status: 200, has: `"usage":null`},
		"refuses":       {path: "/v1/messages", body: chat, says: "!refuses", status: 400, free: true},
		"limits":        {path: "/v1/messages", body: chat, says: "!limits", status: 429, free: true},
		"no such model": {path: "/v1/messages", body: `{"model":"x%s"}`, status: 404, free: true},
		"counts":        {path: "/v1/messages/count_tokens", body: `{"model":"m%s"}`, status: 200, has: `"input_tokens"`, free: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, ask := start(t)
			body := fmt.Sprintf(c.body, c.says)
			status, answer, err := ask(c.path, body)
			if (err != nil) != c.cut || status != c.status || !strings.Contains(answer, c.has) {
				t.Errorf("%d %s %v, expected %d with %s", status, answer, err, c.status, c.has)
			}
			want := uint64(tokens(len(body))) + 4*3
			if c.free {
				want = 0
			}
			if got := p.Account(); uint64(got.Charged) != want || got.Requests != 1 {
				t.Errorf("%+v, expected %d micro-dollars", got, want)
			}
		})
	}
}

func TestItWantsItsKey(t *testing.T) {
	p, err := New(Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"", "Authorization"} {
		r, err := http.NewRequest(http.MethodPost, "/v1/messages", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(header, "Bearer "+key+"x")
		if p.authentic(r) {
			t.Errorf("%q lets another key in", header)
		}
	}
}
