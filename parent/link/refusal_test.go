package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// A client that writes after the server has refused its certificate and closed is told of the refusal, and not of a broken pipe.
func TestRefusalIsTold(t *testing.T) {
	caller, err := OpenCaller(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{caller.Certificate()}}
	server := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: client.Certificates, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
		SessionTicketsDisabled: true,
		VerifyPeerCertificate:  func([][]byte, [][]*x509.Certificate) error { return errors.New("a stranger") },
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, c := range []struct {
		name  string
		creds credentials.TransportCredentials
		told  bool
	}{{"as the link connects", transport(client), true}, {"its clone", transport(client).Clone(), true}, {"plain", credentials.NewTLS(client), false}} {
		t.Run(c.name, func(t *testing.T) {
			refused := make(chan struct{})
			go func() {
				defer close(refused)
				if conn, err := listener.Accept(); err == nil {
					tls.Server(conn, server).Handshake()
					conn.Close()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			raw, err := net.Dial("unix", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			conn, _, err := c.creds.ClientHandshake(ctx, "enclave", raw)
			if err != nil {
				t.Fatal(err)
			}
			<-refused
			if _, err = conn.Write([]byte("PRI * HTTP/2.0")); err == nil || strings.Contains(err.Error(), "bad certificate") != c.told {
				t.Errorf("%v", err)
			}
		})
	}
}
