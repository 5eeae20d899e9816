package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
)

// raw has the provider answer with bytes of HTTP/1.1, after which it ends the connection.
func (w *world) raw(t *testing.T, answer string) {
	w.dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			c := tls.Server(far, &tls.Config{Certificates: w.TLS.Certificates, NextProtos: []string{"http/1.1"}})
			defer far.Close()
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(c, answer) // who does not read it has gone
		}()
		return near, nil
	}
}

// A status that no answer may have leaves nothing unsettled, and does not become one of the gateway's.
func TestStatusesThatAreNone(t *testing.T) {
	for _, line := range []string{"HTTP/1.1 000 nothing", "HTTP/1.1 099 little", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade"} {
		t.Run(line[9:12], func(t *testing.T) {
			w := newWorld(t, "5")
			w.raw(t, line+"\r\nContent-Length: 0\r\n\r\n")
			status, answer, _, err := w.ask(t.Context(), chatPath, chat)
			if err != nil || status != http.StatusBadGateway {
				t.Errorf("%d %q %v", status, answer, err)
			}
			if spent := w.settled(t); spent != w.worst(t) {
				t.Errorf("%s counts as spent", spent)
			}
		})
	}
}

// Who stands between can end a connection, and TLS does not tell: an answer without a length has no end that could be believed.
func TestAnEndThatNobodyVouchesFor(t *testing.T) {
	const used = `"usage":{"prompt_tokens":30,"completion_tokens":%d}`
	head := "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "
	chunk := "data: {\"choices\":[{}]," + fmt.Sprintf(used, 1) + "}\n\n"
	for name, c := range map[string]struct {
		body, answer string
		kept         bool
	}{
		"a stream that is cut":   {stream, head + "text/event-stream\r\n\r\n" + chunk, true},
		"a stream with its end":  {stream, head + "text/event-stream\r\n\r\n" + chunk + "data: [DONE]\n\n", false},
		"a document":             {chat, head + "application/json\r\n\r\n{" + fmt.Sprintf(used, 1) + "}", false},
		"a document that is cut": {chat, head + "application/json\r\n\r\n{" + fmt.Sprintf(used, 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "5")
			w.raw(t, c.answer)
			if status, answer, _, err := w.ask(t.Context(), chatPath, c.body); err != nil || status != http.StatusOK {
				t.Fatalf("%d %q %v", status, answer, err)
			}
			if spent, worst := w.settled(t), w.worst(t); (spent == worst) != c.kept {
				t.Errorf("%s counts as spent of a hold of %s", spent, worst)
			}
		})
	}
}

// A request is JSON in UTF-8 for whoever reads it, whatever the agent calls it: other alphabets have other quotation marks.
func TestRequestsAreReadInOneWay(t *testing.T) {
	for _, called := range []string{"application/json; charset=utf-7", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""} {
		w := newWorld(t, "5")
		r, err := http.NewRequest(http.MethodPost, w.url+chatPath, strings.NewReader(chat))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+pass)
		r.Header["Content-Type"] = []string{called, called}
		r.Header.Set("Content-Encoding", "gzip")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := w.headers[0]; fmt.Sprint(got["Content-Type"]) != "[application/json]" || got.Get("Content-Encoding") != "" {
			t.Errorf("%q: the provider got %q", called, got)
		}
	}
}

// A provider that says the key again, as some do in errors and redirects, does not say it to the agent.
func TestAKeyThatIsSaidAgain(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusTemporaryRedirect, http.StatusUnauthorized, http.StatusInternalServerError} {
		w := newWorld(t, "5")
		w.answer = func(out http.ResponseWriter, r *http.Request, _ map[string]any) {
			key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			out.Header().Set("Location", "https://elsewhere.test/?key="+key)
			out.Header().Set("X-Request-Id", "42")
			out.WriteHeader(status)
			if status != http.StatusOK {
				fmt.Fprintf(out, `{"error":"the key %s is not known, %s"}`, key, strings.Repeat("x", 10_000))
			}
		}
		got, answer, header, err := w.ask(t.Context(), chatPath, chat)
		if err != nil || got != status || header.Get("X-Request-Id") != "42" {
			t.Errorf("%d: %d %q %v %v", status, got, answer, header, err)
		}
		if strings.Contains(answer+fmt.Sprint(header), secret) {
			t.Errorf("%d: the agent got the key", status)
		}
		if status != http.StatusOK && !strings.Contains(answer, "is not known, xxx") {
			t.Errorf("%d: the error is lost: %q", status, answer)
		}
	}
}

// An error without end ends, and counts as it would have.
func TestAnErrorWithoutEnd(t *testing.T) {
	w := newWorld(t, "5")
	w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
		out.WriteHeader(http.StatusInternalServerError)
		for {
			if _, err := io.WriteString(out, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	}
	if status, _, _, err := w.ask(t.Context(), chatPath, chat); err == nil {
		t.Errorf("%d, and no error", status)
	}
	if spent := w.settled(t); spent != w.worst(t) || spent == 0 {
		t.Errorf("%s counts as spent", cost.Amount(spent))
	}
}

// Nor does it come into what the parent is told and logs hold: headers of usage, and lines that are no HTTP.
func TestAKeyStaysOutOfRecordsAndLogs(t *testing.T) {
	for name, answer := range map[string]string{
		"a header of usage":   "HTTP/1.1 200 OK\r\nX-Usage-Key: %s\r\nContent-Length: 2\r\n\r\n{}",
		"a line that is none": "HTTP/1.1 200 OK\r\n%s\r\n\r\n",
		"a status":            "HTTP/1.1 %s OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "5")
			w.raw(t, fmt.Sprintf(answer, secret))
			if _, _, _, err := w.ask(t.Context(), chatPath, chat); err != nil {
				t.Error(err)
			}
			w.settled(t)
			if record := <-w.records; strings.Contains(fmt.Sprintf("%+v", record), secret) {
				t.Errorf("the record has the key: %+v", record)
			}
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("the log has the key: %s", w.log.String())
			}
		})
	}
}

// Anthropic charges more for input that is written to a cache than for input, of each of its models: also where a price does not say so.
func TestWritesToACacheCostMoreThanInput(t *testing.T) {
	w := newWorld(t, "5")
	w.kind = cost.Anthropic
	w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
		out.Header().Set("Content-Type", "application/json")
		fmt.Fprint(out, `{"type":"message","usage":{"input_tokens":0,"cache_creation_input_tokens":1000,"output_tokens":0}}`)
	}
	body := `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"` + strings.Repeat("x", 1000) + `"%s}]}]}`
	var worst [2]cost.Amount
	for i, cached := range []string{"", `,"cache_control":{"type":"ephemeral"}`} {
		if status, answer, _, err := w.ask(t.Context(), "/v1/messages", fmt.Sprintf(body, cached)); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		worst[i] = (<-w.records).Worst
	}
	if worst[1] < worst[0]*5/4 {
		t.Errorf("a hold of %s with a cache, of %s without", worst[1], worst[0])
	}
	if spent := w.settled(t); spent != 1000+1250 {
		t.Errorf("%s counts as spent", spent)
	}
}

// Who is refused and never sends the rest of a request does not keep its connection: the gateway does not wait for a body that it will not read.
func TestARefusedRequestEndsItsConnection(t *testing.T) {
	w := newWorld(t, "5")
	for name, request := range map[string]string{
		"not a run's key":  "POST /models" + chatPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"no such provider": "POST /others" + chatPath + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + pass + "\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		c, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "http://"), "/models"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(c, request)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%s: no answer: %v", name, err)
			continue
		}
		if answer.StatusCode != 401 && answer.StatusCode != 404 || !answer.Close {
			t.Errorf("%s: %d, the connection ends: %v", name, answer.StatusCode, answer.Close)
		}
	}
}
