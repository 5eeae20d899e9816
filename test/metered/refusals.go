package metered

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// refusals remembers what the gateway answered with an error.
type refusals struct {
	mu  sync.Mutex
	all []string
}

// maxRefusals is how many are remembered, of each so many bytes.
const (
	maxRefusals = 100
	maxRefusal  = 4 << 10
)

func (r *refusals) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		listener := &listener{ResponseWriter: w}
		next.ServeHTTP(listener, request)
		if listener.status < 400 {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.all) < maxRefusals {
			r.all = append(r.all, fmt.Sprintf("%s %s: %d %s", request.Method, request.URL, listener.status, listener.said))
		}
	})
}

// Refusals are the errors that the gateway answered with, its own ones and those of the provider.
func (w *World) Refusals() []string {
	w.refusals.mu.Lock()
	defer w.refusals.mu.Unlock()
	return slices.Clone(w.refusals.all)
}

// listener hears the status, and what an error says.
type listener struct {
	http.ResponseWriter
	status int
	said   []byte
}

func (l *listener) WriteHeader(status int) {
	l.status = status
	l.ResponseWriter.WriteHeader(status)
}

func (l *listener) Write(p []byte) (int, error) {
	if l.status >= 400 && len(l.said) < maxRefusal {
		l.said = append(l.said, p...)
	}
	return l.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (l *listener) Unwrap() http.ResponseWriter { return l.ResponseWriter }
