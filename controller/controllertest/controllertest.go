// Package controllertest runs controllers as processes, for tests and measurements from outside, and plays the enclaves that ask them.
package controllertest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/raypher/raypher/controller/connection"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/secret"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// Fleet is what all replicas of a controller share: keys, and the operator.
type Fleet struct {
	Dir          string
	Database     string
	Key          startconf.KeyHash // of the replicas' TLS certificate
	Operator     *ecdsa.PrivateKey
	OperatorFile string
	operatorHash startconf.KeyHash
}

// New makes the keys of a fleet with a database.
func New(t testing.TB, database string) *Fleet {
	t.Helper()
	f := &Fleet{Dir: t.TempDir(), Database: database}
	f.OperatorFile = filepath.Join(f.Dir, "operator.key")
	f.Operator, f.operatorHash = makeKey(t, f.OperatorFile)
	_, f.Key = makeKey(t, filepath.Join(f.Dir, "tls.key"))
	makeKey(t, filepath.Join(f.Dir, "signing.key"))
	if _, err := secret.MakeKey(filepath.Join(f.Dir, "secrets.key")); err != nil {
		t.Fatal(err)
	}
	return f
}

func makeKey(t testing.TB, path string) (*ecdsa.PrivateKey, startconf.KeyHash) {
	t.Helper()
	key, _, err := peer.OpenKey(path, true)
	if err != nil {
		t.Fatal(err)
	}
	_, hash, err := peer.Certificate(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return key, hash
}

// Replica is one process of a controller.
type Replica struct {
	RPC, HTTP string // host:port
	cmd       *exec.Cmd
}

var serving = regexp.MustCompile(`msg=serving grpc=(\S+) http=(\S+)`)

// Start runs a controller's program with further arguments, and returns when it serves. It takes tier software. It is killed with the test.
func (f *Fleet) Start(t testing.TB, program []string, args ...string) *Replica {
	t.Helper()
	r, err := f.Run(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	return r
}

// Run is Start without a test; Kill ends the process.
func (f *Fleet) Run(program []string, args ...string) (*Replica, error) {
	args = append(append(program[1:len(program):len(program)], "--listen", "127.0.0.1:0", "--listen-http", "127.0.0.1:0", "--state", f.Dir, "--database-url", f.Database,
		"--operator", f.operatorHash.String(), "--allow-software"), args...)
	r := &Replica{cmd: exec.Command(program[0], args...)}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.cmd.Env = os.Environ()
	out, err := r.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	said := bufio.NewScanner(out)
	var text strings.Builder
	for said.Scan() {
		fmt.Fprintln(&text, said.Text())
		if found := serving.FindStringSubmatch(said.Text()); found != nil {
			r.RPC, r.HTTP = found[1], found[2]
			go io.Copy(io.Discard, out)
			return r, nil
		}
	}
	return nil, fmt.Errorf("the controller has ended: %w\n%s", r.cmd.Wait(), text.String())
}

// Kill ends the process with SIGKILL, if it has not ended.
func (r *Replica) Kill() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// Stop ends it as a service manager does, and returns with what it ended.
func (r *Replica) Stop() error {
	r.cmd.Process.Signal(syscall.SIGTERM)
	return r.cmd.Wait()
}

// AsOperator connects to a replica as the operator.
func (f *Fleet) AsOperator(t testing.TB, r *Replica) *grpc.ClientConn {
	t.Helper()
	certificate, _, err := peer.Certificate(f.Operator, "operator")
	if err != nil {
		t.Fatal(err)
	}
	return f.Connect(t, r.RPC, certificate)
}

// impatient tries a replica again soon after it was killed.
var impatient = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: 5 * time.Second,
})

// Connect connects to an address with a certificate. Calls wait for a replica that is not there, as long as their context lasts.
func (f *Fleet) Connect(t testing.TB, address string, certificate tls.Certificate) *grpc.ClientConn {
	t.Helper()
	conn, err := connection.Open(address, f.Key, certificate, impatient, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Enclave is an enclave of tier software.
type Enclave struct {
	Host          string
	Key           *journal.Key
	Certificate   tls.Certificate // both, as an enclave shows them
	Caller        startconf.KeyHash
	Epoch         journal.EpochID
	configuration []byte
	hash          journal.Hash
	private       *ecdsa.PrivateKey
}

// NewEnclave makes an enclave with keys of its own, for a host of this name.
func NewEnclave(host string) (*Enclave, error) {
	e := &Enclave{Host: host}
	copy(e.Caller[:], host)
	e.configuration = []byte("caller_key = " + e.Caller.String() + "\n")
	c, err := startconf.Parse("test", e.configuration)
	if err != nil {
		return nil, err
	}
	e.hash = c.Hash()
	rand.Read(e.Epoch[:])
	if e.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if e.Key, err = journal.NewKey(&e.private.PublicKey); err != nil {
		return nil, err
	}
	e.Certificate, err = certificates(e.private)
	return e, err
}

// certificates are those of an enclave: its TLS key's, signed by its signing key, and the signing key's.
func certificates(signing *ecdsa.PrivateKey) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signing"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	upper, err := x509.CreateCertificate(rand.Reader, issuer, issuer, signing.Public(), signing)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature}
	lower, err := x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), signing)
	return tls.Certificate{Certificate: [][]byte{lower, upper}, PrivateKey: key}, err
}

// signerOf is an enclave's key as package journal uses it.
type signerOf struct{ e *Enclave }

func (s signerOf) Public() *ecdsa.PublicKey { return s.e.Key.Public() }

func (s signerOf) Sign(digest []byte) ([]byte, error) {
	der, err := ecdsa.SignASN1(rand.Reader, s.e.private, digest)
	if err != nil {
		return nil, err
	}
	return journal.RawSignature(der)
}

// Configure adds lines to the start configuration.
func (e *Enclave) Configure(lines string) error {
	e.configuration = append(e.configuration, lines...)
	c, err := startconf.Parse("configuration", e.configuration)
	if err == nil {
		e.hash = c.Hash()
	}
	return err
}

// Evidence is a request with the enclave's evidence over a nonce.
func (e *Enclave) Evidence(nonce []byte) (*controllerv1.AttestRequest, error) {
	evidence, err := journal.SignStatement(signerOf{e}, e.Epoch, e.hash, nonce, time.Now())
	if err != nil {
		return nil, err
	}
	return &controllerv1.AttestRequest{Nonce: nonce, Tier: journal.TierSoftware, Document: evidence.Document, Configuration: e.configuration}, nil
}

// Attest gets a result: the challenge from one connection, the answer over another.
func (e *Enclave) Attest(ctx context.Context, challenge, attest grpc.ClientConnInterface) (string, error) {
	c, err := controllerv1.NewAttestationClient(challenge).Challenge(ctx, &controllerv1.ChallengeRequest{})
	if err != nil {
		return "", err
	}
	request, err := e.Evidence(c.GetNonce())
	if err != nil {
		return "", err
	}
	reply, err := controllerv1.NewAttestationClient(attest).Attest(ctx, request)
	return reply.GetResult(), err
}
