package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controller "github.com/raypher/raypher/controller/daemon"
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

// The TLS key changes: the configuration of an enclave may name the key after it before it is in use, and no key of a stranger.
func TestTLSKeyChanges(t *testing.T) {
	f := newFleet(t)
	self := program(t)
	signing, next := filepath.Join(f.Dir, "signing.key"), filepath.Join(f.Dir, "next.key")
	for _, path := range []string{signing, next} {
		if err := keygen(path); err != nil {
			t.Fatal(err)
		}
	}
	public := func(path string) []byte {
		der, err := controller.ReadPublic(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	e := newEnclave(t, "rack-1")
	if err := e.Configure(fmt.Sprintf("controller = controller:7443\ncontroller_result_key = %s\ncontroller_key = %s\ncontroller_key = %s\n",
		base64.StdEncoding.EncodeToString(public(signing)), f.Key, startconf.KeyHash(sha256.Sum256(public(next))))); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		args []string
		code codes.Code
	}{
		{nil, codes.PermissionDenied},
		{[]string{"--other-tls-key", next + ".pub"}, codes.OK},
	} {
		r := f.Start(t, self, c.args...)
		if i == 0 {
			add(t, f.AsOperator(t, r), e)
		}
		conn := f.Connect(t, r.RPC, e.Certificate)
		if _, err := e.Attest(short(t), conn, conn); status.Code(err) != c.code {
			t.Errorf("%q: %v", c.args, err)
		}
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func keygen(path string) error {
	c := keygenCommand()
	c.SetArgs([]string{path})
	c.SetOut(io.Discard)
	return c.Execute()
}
