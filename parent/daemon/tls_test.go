package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/client"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

const operatedCeiling = `
version: 1
trust_domain: raypher.local
grants:
  - namespace: default
    agents: [payer]
    own_key: true
    tls_keys: true
    permit: {mode: permissive, network: {default_action: allow, egress: ["127.0.0.0/8"]}}
  - namespace: "*"
    agents: ["*"]
    permit: {mode: permissive, network: {default_action: allow, egress: ["127.0.0.0/8"]}}
`

// mutual connects to a TLS server with the TLS key of the calling agent, and returns what the server calls it.
func mutual(ctx context.Context, agent, server string) (string, error) {
	if strings.HasPrefix(agent, "/") {
		agent = "unix:" + agent
	}
	c, err := client.Dial(agent)
	if err != nil {
		return "", err
	}
	defer c.Close()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", server)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	conn := tls.Client(raw, c.TLSConfig(ctx, &tls.Config{InsecureSkipVerify: true})) // the server is the test's
	if err := conn.HandshakeContext(ctx); err != nil {
		return "", err
	}
	seen, err := io.ReadAll(conn)
	return "the server saw " + string(seen), err
}

// tlsServer asks for client certificates of the authority and tells each client its name.
func tlsServer(t *testing.T, authority []byte) (address string) {
	t.Helper()
	root, err := x509.ParseCertificate(authority)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, config)
			if conn.Handshake() == nil {
				fmt.Fprint(conn, conn.ConnectionState().PeerCertificates[0].URIs[0])
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func called(name string) func(*order, *exec.Cmd) {
	return func(o *order, _ *exec.Cmd) { o.Launch.Name = name }
}

// operate makes an operator, tells the enclave of it, and installs its ceiling, as docs/bare-metal.md does by hand.
func (p *pair) operate() {
	p.t.Helper()
	_, operator, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	der, err := ceiling.PublicKey(operator)
	if err != nil {
		p.t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(p.paths.Keys, startconf.FileName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	fmt.Fprintf(f, "operator_key = %s\n", base64.StdEncoding.EncodeToString(der))
	if err := f.Close(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	p.start()
	c, err := ceiling.ParseSource("c", []byte(operatedCeiling))
	if err != nil {
		p.t.Fatal(err)
	}
	bundle, err := ceiling.Sign(c, operator)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.operator().InstallCeiling(context.Background(), &parentv1.OperatorInstallCeilingRequest{Bundle: bundle}); err != nil {
		p.t.Fatal(err)
	}
}

// On tier tpm nothing is granted before an operator has said what. Then an agent authenticates in mutual TLS with a key that lies in
// the TPM, by each way to raypherd, and nobody else does as that agent.
func TestTLSFromTheTPM(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("raypherd needs root")
	}
	ca := tpmtest.NewCA(t)
	machine := tpmtest.Start(t, ca.Make(t))
	p := newPair(t, "--tpm-device", machine.Socket).start()
	if words := p.refused(plain); !strings.Contains(words, "no ceiling is installed") {
		t.Errorf("before there is a ceiling: %s", words)
	}
	p.operate()
	nonce := []byte("a nonce of a verifier")
	described, err := p.operator().DescribeKey(t.Context(), &parentv1.OperatorDescribeKeyRequest{Purpose: "tls-authority", Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	liesInTheTPM(t, ca, described, nonce)
	server := tlsServer(t, described.Certificate)

	w := p.run(reject(server), fmt.Sprintf(`"$ASK" %s mutual %s; sleep 1000`, p.address(), server), called("payer"))
	want := "the server saw spiffe://raypher.local/ns/default/agent/payer"
	if line := w.printed("the server", "error"); line != want {
		t.Errorf("the agent over TCP: %s", line)
	}
	if answer := w.asked(p.paths.AgentSocket, "mutual", server); answer != want {
		t.Errorf("the agent's socket, through its warden: %s", answer)
	}
	other := p.run(plain, "sleep 1000", called("reader"))
	if answer := other.asked(p.paths.AgentSocket, "mutual", server); !strings.Contains(answer, "tls_keys: true") {
		t.Errorf("an agent without the grant: %s", answer)
	}
	if answer, err := mutual(t.Context(), p.paths.AgentSocket, server); err == nil || !strings.Contains(err.Error(), "does not know this process as an agent") {
		t.Errorf("an outsider: %s, %v", answer, err)
	}

	// The namespace's own key vouches for the agent's visa, from inside the TPM too.
	described, err = p.operator().DescribeKey(t.Context(), &parentv1.OperatorDescribeKeyRequest{Purpose: "namespace", Name: "default", Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	liesInTheTPM(t, ca, described, nonce)
	key, err := journal.ParseKey(described.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := visa.Verify(w.grant().Visa, visa.Options{Keys: []*journal.Key{key}, Tiers: []string{journal.TierTPM}}); err != nil {
		t.Errorf("the agent's visa under its namespace's key: %v", err)
	}

	// Another raypherd and another enclave find the agents, and the same keys.
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.start()
	w.order(order{Reattach: true})
	p.eventually("the agent can ask again", func() bool { return w.asked(p.paths.AgentSocket, "mutual", server) == want })
}

func liesInTheTPM(t *testing.T, ca *tpmtest.CA, d *parentv1.OperatorKeyDescription, nonce []byte) {
	t.Helper()
	roots, err := attest.LoadRoots(ca.Roots)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attest.Decode(d.Document)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := attest.ParsePublic(b.AKPublic, attest.AttestationKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := attest.Verify(d.Document, attest.Options{Roots: roots, Nonce: nonce, ActivatedAKs: [][]byte{ak.Name}})
	if err != nil {
		t.Fatal(err)
	}
	if d.Tier != journal.TierTPM || string(r.Key.PKIX()) != string(d.PublicKey) {
		t.Error("the evidence is of another key")
	}
}
