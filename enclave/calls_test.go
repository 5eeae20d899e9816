package enclave

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/internal/carrier"
	"github.com/raypher/raypher/visa"
)

// carried opens a connection of a protocol as the parent does, and writes its beginning.
func (r *running) carried(t *testing.T, protocol string, begin []byte, certificates ...tls.Certificate) *tls.Conn {
	t.Helper()
	config := r.tls(certificates...)
	config.NextProtos = []string{protocol}
	conn, err := tls.Dial("unix", r.socket, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	conn.Write(begin) // one that is refused says so when it is read
	return conn
}

func preface(t *testing.T, agent string) []byte {
	t.Helper()
	b, err := carrier.AgentPreface(agent)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOnlyTheParentHandsConnectionsIn: agents' calls are read on connections of the authenticated parent, several on one, and nobody else's.
func TestOnlyTheParentHandsConnectionsIn(t *testing.T) {
	r := serve(t)
	conn := r.carried(t, carrier.Agents, preface(t, "a1"), r.caller)
	answers := bufio.NewReader(conn)
	for range 2 {
		io.WriteString(conn, "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "no cost control is in force") {
			t.Errorf("%d, %s", answer.StatusCode, body)
		}
	}
	stranger, _ := certificate(t)
	for _, protocol := range []string{carrier.Agents, carrier.Provider} {
		conn := r.carried(t, protocol, preface(t, "a1"), stranger)
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("%s by a stranger: %v", protocol, err)
		}
	}
	conn = r.carried(t, carrier.Agents, []byte{0}, r.caller)
	if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("nobody's connection: %q, %v", answer, err)
	}
	r.alive(t)
}

// TestConnectionsOfAgentsAreBounded: a parent that opens more connections than there may be has the further ones closed, and calls of its own go on.
func TestConnectionsOfAgentsAreBounded(t *testing.T) {
	r := serve(t)
	for range MaxCalling {
		r.calls.handed.places <- struct{}{}
	}
	request := append(preface(t, "a1"), "GET / HTTP/1.0\r\n\r\n"...)
	conn := r.carried(t, carrier.Agents, request, r.caller)
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("one more is answered: %s", answer)
	}
	r.alive(t)
	<-r.calls.handed.places
	conn = r.carried(t, carrier.Agents, request, r.caller)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
}

// TestTheKeyAndTheConnectionAgree: a run's key counts on a connection that the parent says is that run's, and on no other.
func TestTheKeyAndTheConnectionAgree(t *testing.T) {
	r := serve(t)
	hash := sha256.Sum256([]byte("key"))
	r.runs.Granted(&visa.Claims{
		Subject: "spiffe://d/ns/dev/agent/coder", Namespace: "dev", Handle: hash[:], ExpiresAt: time.Now().Add(time.Hour).Unix(), Asserted: visa.Asserted{AgentID: "a1"},
	})
	on := func(agent string) context.Context {
		return context.WithValue(t.Context(), connKey{}, &agentConn{agent: agent})
	}
	if run, ok := r.runOf(on("a1"), "key"); !ok || run.Agent != "coder" || run.Namespace != "dev" || run.Run != "a1" {
		t.Errorf("%+v, %v", run, ok)
	}
	for name, ctx := range map[string]context.Context{"another run's": on("a2"), "nobody's": on(""), "no carried connection": t.Context()} {
		if _, ok := r.runOf(ctx, "key"); ok {
			t.Errorf("the key counts on a connection that is %s", name)
		}
	}
	if _, ok := r.runOf(on("a1"), "other"); ok {
		t.Error("another key counts")
	}
}

// TestNothingButProvidersIsDialled: the gateway connects to the hosts of the cost control in force alone, whatever an answer or an agent names.
func TestNothingButProvidersIsDialled(t *testing.T) {
	r := serve(t)
	if _, err := r.dialProvider(t.Context(), "tcp", "169.254.169.254:80"); err == nil || !strings.Contains(err.Error(), "no provider") {
		t.Errorf("%v", err)
	}
}
