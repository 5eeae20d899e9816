package link

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// CheckTier is the check that fails where an enclave's evidence is of another tier than the wanted one. The others are those of package
// attest/nitro.
const CheckTier attest.Check = "tier"

// ErrEvidence: the enclave that answers could not show that it is the expected one. The message names the check.
var ErrEvidence = fmt.Errorf("%w: its evidence is refused", ErrPeer)

const (
	vouchTimeout  = 5 * time.Second // for the connection on which evidence is asked for, and its calls
	vouchNonce    = 32              // bytes
	maxVouchReply = 64 << 10        // bytes of one answer on that connection
)

// Vouch is what an enclave has to show before it is spoken to. Before each connection its evidence is asked for over one of its own, fresh
// for a nonce, and the key that it is about becomes the one that the real connection is held to: who answers is the
// holder of the attested key. The zero value judges documents of tier nitro under the AWS root and takes evidence of other tiers as it is.
type Vouch struct {
	// Tier is the tier that the evidence must be of; empty: any, unless there are measurements.
	Tier string
	// Roots are trusted for documents of tier nitro instead of the AWS root: a laboratory's.
	Roots []*x509.Certificate
	// PCRs and Golden are the measurements that the image must have. With them a new key, as that of an enclave that was started anew, takes
	// the place of the pinned one; without, the pin decides as ever.
	PCRs   map[int]nitro.PCR
	Golden *golden.List
}

// measured says whether the enclave is known by what it is, and not by its key.
func (v *Vouch) measured() bool { return len(v.PCRs) > 0 || v.Golden != nil }

// shown is what an enclave showed of itself on one connection.
type shown struct {
	key      [32]byte // that the handshake proved
	epoch    []byte
	evidence *enclavev1.Evidence
}

// judge says why the evidence is not that of the expected enclave. configuration is the hash of what it was sent to start with; nil: it was not.
func (v *Vouch) judge(s *shown, nonce []byte, configuration *[32]byte) (*evidence.Attested, error) {
	tier := s.evidence.GetTier()
	wanted := v.Tier
	if v.measured() {
		wanted = journal.TierNitro
	}
	if wanted != "" && tier != wanted {
		return nil, attest.Refuse(CheckTier, "it is of tier %q, wanted %q", tier, wanted)
	}
	if tier != journal.TierNitro {
		return nil, nil
	}
	verifier, err := nitro.NewVerifier(nitro.Config{Roots: v.Roots})
	if err != nil {
		return nil, err
	}
	expected := nitro.Expected{Nonce: nonce, PCRs: maps.Clone(v.PCRs), Golden: v.Golden}
	if expected.PCRs == nil {
		expected.PCRs = make(map[int]nitro.PCR)
	}
	if configuration != nil {
		expected.PCRs[nitro.ConfigurationPCR] = nitro.ConfigurationValue(*configuration)
	}
	document, err := verifier.Verify(s.evidence.GetDocument(), expected)
	if errors.Is(err, nitro.CheckPCR) && startedOtherwise(s.evidence.GetDocument(), expected.PCRs) {
		return nil, fmt.Errorf("%w: it was started with another configuration than raypherd's: end it and start it anew", err)
	}
	if err != nil {
		return nil, err
	}
	a, err := document.Attested()
	if err != nil {
		return nil, err
	}
	switch {
	case a.Key.ID() != s.key:
		return nil, attest.Refuse(nitro.CheckKey, "the document is about key sha256:%s, and %s answers", a.Key, startconf.KeyHash(s.key))
	case string(a.Epoch[:]) != string(s.epoch):
		return nil, attest.Refuse(nitro.CheckKey, "the document is about epoch %s, and the enclave says %x", a.Epoch, s.epoch)
	}
	return a, nil
}

// startedOtherwise says whether a document's register of configurations is not the wanted one.
func startedOtherwise(document []byte, wanted map[int]nitro.PCR) bool {
	claimed, err := nitro.Claimed(document)
	want, ok := wanted[nitro.ConfigurationPCR]
	return err == nil && ok && claimed.PCRs[nitro.ConfigurationPCR] != want
}

// vouching asks for evidence before each connection.
func vouching(v *Vouch, caller *Caller, p *pin, configuration *[32]byte, dial dialFunc, log *slog.Logger) dialFunc {
	return func(ctx context.Context) (net.Conn, error) {
		if err := v.vouch(ctx, caller, p, configuration, dial, log); err != nil {
			return nil, err
		}
		return dial(ctx)
	}
}

// vouch asks for evidence, judges it, and pins the key that it is about.
func (v *Vouch) vouch(ctx context.Context, caller *Caller, p *pin, configuration *[32]byte, dial dialFunc, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, vouchTimeout)
	defer cancel()
	nonce := make([]byte, vouchNonce)
	rand.Read(nonce) // never fails
	s, err := ask(ctx, caller, dial, nonce)
	if err != nil {
		return fmt.Errorf("ask the enclave for evidence: %w", err)
	}
	a, err := v.judge(s, nonce, configuration)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	known := p.hash()
	if v.measured() {
		err = p.replace(s.key)
	} else {
		err = p.check(s.key)
	}
	if err != nil {
		return err
	}
	switch {
	case a == nil:
		log.Warn("nothing but its pinned key says who the enclave is", "tier", s.evidence.GetTier(), "key", startconf.KeyHash(s.key))
	case !v.measured():
		log.Warn("the enclave's document was verified, and not compared with measurements: any image would do (--enclave-measurements)",
			"tier", a.Tier, "key", startconf.KeyHash(s.key))
	default:
		log.Info("the enclave is the expected one: its document was verified", "tier", a.Tier, "key", startconf.KeyHash(s.key),
			"started_anew", known != nil && *known != s.key, "golden_set", a.Golden)
	}
	return nil
}

// ask connects once and asks what the enclave is. Who answers is anybody until its evidence was judged: nothing is sent to it but a nonce.
func ask(ctx context.Context, caller *Caller, dial dialFunc, nonce []byte) (*shown, error) {
	var (
		s    shown
		mu   sync.Mutex // of keys: gRPC may connect again
		keys [][32]byte
	)
	config := clientTLS(caller, func(key [32]byte) error {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, key)
		return nil
	})
	conn, err := grpc.NewClient("passthrough:///raypher-enclave",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(transport(config)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxVouchReply)),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := enclavev1.NewEnclaveClient(conn)
	about, err := client.Describe(ctx, &enclavev1.DescribeRequest{})
	if err != nil {
		return nil, err
	}
	s.epoch = about.GetEpoch()
	if s.evidence, err = client.Attest(ctx, &enclavev1.AttestRequest{Nonce: nonce}); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	if len(keys) != 1 {
		return nil, fmt.Errorf("%w: it answered on %d connections", ErrPeer, len(keys))
	}
	s.key = keys[0]
	return &s, nil
}

// clientTLS is the parent's side: TLS 1.3, the caller's key, and a server whose certificate was signed by a key that check takes: an enclave's
// signing key, by the SHA-256 of its PKIX DER.
func clientTLS(caller *Caller, check func([32]byte) error) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{caller.certificate},
		ServerName:   "raypher-enclave",
		NextProtos:   []string{"h2"},
		// No name and no authority is trusted: VerifyConnection checks the key instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			key, err := enclaveKey(state)
			if err != nil {
				return err
			}
			return check(key)
		},
	}
}
