package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
)

// openssl runs a command of openssl with the key in the TPM, as docs/bare-metal.md says.
func openssl(t *testing.T, tpm *tpmtest.TPM, dir, command string, arguments ...string) (string, error) {
	t.Helper()
	provider := []string{command, "-provider", "default", "-provider", "tpm2", "-propquery", "?provider=tpm2,tpm2.digest!=yes,tpm2.cipher!=yes"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, "openssl", append(provider, arguments...)...)
	run.Dir, run.Env = dir, append(os.Environ(), "TPM2OPENSSL_TCTI=swtpm:path="+tpm.Socket)
	var out, errs bytes.Buffer
	run.Stdout, run.Stderr = &out, &errs
	if err := run.Run(); err != nil {
		return out.String(), fmt.Errorf("openssl %s: %w\n%s", command, err, errs.String())
	}
	return out.String(), nil
}

// A client that uses OpenSSL authenticates in mutual TLS with a key that tpm2-tools made in the TPM.
func TestOpenSSLClient(t *testing.T) {
	tpm := plain(t)
	dir := t.TempDir()
	if found, _ := filepath.Glob("/usr/lib/*/ossl-modules/tpm2.so"); len(found) == 0 {
		t.Skip("OpenSSL has no provider for TPMs: install the package tpm2-openssl")
	}
	const handle = "0x81010020"
	tpm.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
	tpm.Tool(t, dir, "tpm2_create", "-Q", "-C", "primary.ctx", "-G", "ecc256:ecdsa-sha256:null",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign", "-u", "tls.pub", "-r", "tls.priv")
	tpm.Tool(t, dir, "tpm2_flushcontext", "-t")
	tpm.Tool(t, dir, "tpm2_load", "-Q", "-C", "primary.ctx", "-u", "tls.pub", "-r", "tls.priv", "-c", "tls.ctx")
	tpm.Tool(t, dir, "tpm2_flushcontext", "-t")
	tpm.Tool(t, dir, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "tls.ctx", handle)
	tpm.Tool(t, dir, "tpm2_flushcontext", "-t")
	if _, err := openssl(t, tpm, dir, "req", "-new", "-key", "handle:"+handle, "-subj", "/CN=ledger-client", "-out", "tls.csr"); err != nil {
		t.Fatal(err)
	}
	roots, address := certified(t, filepath.Join(dir, "tls.csr"), filepath.Join(dir, "tls.pem"))
	if err := os.WriteFile(filepath.Join(dir, "server.pem"), roots, 0o600); err != nil {
		t.Fatal(err)
	}
	connect := []string{"-connect", address, "-CAfile", "server.pem", "-verify_return_error", "-tls1_3", "-quiet"}
	said, err := openssl(t, tpm, dir, "s_client", append(connect, "-cert", "tls.pem", "-key", "handle:"+handle)...)
	if err != nil || !strings.Contains(said, "welcome ledger-client") {
		t.Errorf("%q, %v", said, err)
	}
	if said, _ := openssl(t, tpm, dir, "s_client", connect...); strings.Contains(said, "welcome") {
		t.Errorf("without the key: %q", said)
	}
}

// certified signs the request with a CA of its own and serves TLS for clients of that CA. It returns the server's root in PEM.
func certified(t *testing.T, request, certificate string) (roots []byte, address string) {
	t.Helper()
	block, _ := pem.Decode(must(os.ReadFile(request))(t))
	if block == nil {
		t.Fatal("no certificate request in PEM")
	}
	csr := must(x509.ParseCertificateRequest(block.Bytes))(t)
	if err := csr.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	root := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)
	ca := must(x509.ParseCertificate(root))(t)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: csr.Subject, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der := must(x509.CreateCertificate(rand.Reader, leaf, ca, csr.PublicKey, key))(t)
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	l := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{root}, PrivateKey: key}}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}))(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := raw.(*tls.Conn)
			if conn.Handshake() == nil {
				fmt.Fprintf(conn, "welcome %s\n", conn.ConnectionState().PeerCertificates[0].Subject.CommonName)
			}
			conn.Close()
		}
	}()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), l.Addr().String()
}
