package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// The signing key changes: results of the one before count, and are published, as long as the controller is told to believe it.
func TestSigningKeyChanges(t *testing.T) {
	f := newFleet(t)
	self := program(t)
	if err := keygen(filepath.Join(f.Dir, "signing.key")); err != nil { // writes the public half of the key that is there
		t.Fatal(err)
	}
	first := f.Start(t, self)
	e := newEnclave(t, "rack-1")
	add(t, f.AsOperator(t, first), e)
	conn := f.Connect(t, first.RPC, e.Certificate)
	token, err := e.Attest(short(t), conn, conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(f.Dir, "next.key")
	if err := keygen(next); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code codes.Code
		keys int
	}{
		{"with the key before", []string{"--signing-key", next, "--verify-key", filepath.Join(f.Dir, "signing.key.pub")}, codes.OK, 2},
		{"without it", []string{"--signing-key", next}, codes.PermissionDenied, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := f.Start(t, self, c.args...)
			_, err := controllerv1.NewLeasesClient(f.Connect(t, r.RPC, e.Certificate)).Read(short(t), &controllerv1.ReadLeaseRequest{Result: token})
			if status.Code(err) != c.code {
				t.Error(err)
			}
			web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: startconf.PinnedTLS(tls.Certificate{}, f.Key)}}
			reply, err := web.Get("https://" + r.HTTP + "/.well-known/jwks.json")
			if err != nil {
				t.Fatal(err)
			}
			defer reply.Body.Close()
			if text, err := io.ReadAll(reply.Body); err != nil || strings.Count(string(text), `"kid"`) != c.keys {
				t.Errorf("%s %v", text, err)
			}
		})
	}
}

func keygen(path string) error {
	c := keygenCommand()
	c.SetArgs([]string{path})
	c.SetOut(io.Discard)
	return c.Execute()
}
