// Package attestation is the fleet's verifier (RATS, RFC 9334): the service raypher.controller.v1.Attestation. It appraises what enclaves
// show of themselves and says what it found in an attestation result (package attest/result).
//
// An enclave asks for a nonce, and sends evidence over it with the text of its start configuration. What must hold, and the name
// that a refusal begins with:
//
//	nonce          of this controller, for this caller, in time, not used before
//	(evidence)     the checks of attest/nitro or attest/tpm, each by its own name, with the golden measurements in force
//	caller         the key of the evidence is the one that the caller's TLS handshake proved
//	configuration  the text is the configuration that the evidence names; it names one caller key, this controller's trust domain, and only
//	               operator keys, roots and keys of controllers that this one knows, or but for the caller key it is one that was listed
//	host           an operator has named a host with that caller key
//	tier           the host is of the tier that the evidence is of
//	identity       the evidence is of the identity to which earlier evidence bound the host
//
// Nonces and enrolments lie in the database, so that any replica answers any step. A nonce is used up by the first evidence that
// names it, good or bad. Every good result is in the audit; of the refusals of a host the first and one a minute, so that
// nobody fills the disk with them. The log has all.
package attestation

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// The controller's own checks. Those of the evidence have their names in attest/nitro, attest/tpm and attest/golden.
const (
	CheckNonce         attest.Check = "nonce"
	CheckTier          attest.Check = "tier"
	CheckCaller        attest.Check = "caller"
	CheckConfiguration attest.Check = "configuration"
	CheckHost          attest.Check = "host"
	CheckIdentity      attest.Check = "identity"
	CheckInstance      attest.Check = "instance document"
)

// Bounds and defaults.
const (
	NonceSize       = 32
	NonceLifetime   = time.Minute
	MaxNonces       = 8      // of one caller that wait
	MaxAllNonces    = 50_000 // of all callers
	EnrolmentLife   = 5 * time.Minute
	MaxEnrolments   = 1000
	MaxAge          = 5 * time.Minute // of what the enclave's clock says
	DefaultLifetime = 10 * time.Minute
	MaxLifetime     = 24 * time.Hour
	refusalPause    = time.Minute // between refusals of one host in the audit
)

// Options of a service.
type Options struct {
	DB         *store.DB
	Keys       *Keys
	References *References
	// NitroRoots are trusted instead of the AWS root; none: the AWS root alone.
	NitroRoots []*x509.Certificate
	// TPMRoots are the makers of TPMs; nil: evidence of tier tpm is refused.
	TPMRoots *tpm.Roots
	// AllowSoftware takes evidence of tier software, which proves nothing about the place of the key. For trying things out.
	AllowSoftware bool
	// CeilingKeys (PKIX DER) are the operator keys that the configuration of a host may name: whoever signs the ceilings of an enclave decides what
	// it does with the secrets that it gets here.
	CeilingKeys [][]byte
	// ControllerKeys are keys of this controller's TLS certificate that the configuration of a host may name, beside the keys of results in Keys:
	// what a stranger's controller says, an enclave would believe of its leases and of its attestation.
	ControllerKeys []startconf.KeyHash
	// Configurations are those that hosts may have, each with the caller key of its own host; none: whatever the other options allow.
	Configurations []*startconf.Configuration
	TrustDomain    string
	Issuer         string // in results
	Build          string // the same
	Lifetime       time.Duration
	Now            func() time.Time
	Log            *slog.Logger
}

// Service implements raypher.controller.v1.Attestation. Its methods may be called concurrently, by several processes on one database.
type Service struct {
	controllerv1.UnimplementedAttestationServer
	Options
	nitro *nitro.Verifier
}

// New begins to serve.
func New(o Options) (*Service, error) {
	if o.Lifetime == 0 {
		o.Lifetime = DefaultLifetime
	}
	if o.Lifetime < time.Second || o.Lifetime > MaxLifetime {
		return nil, errors.New("lifetime of results: use one second to 24 hours")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	verifier, err := nitro.NewVerifier(nitro.Config{Roots: o.NitroRoots})
	if err != nil {
		return nil, err
	}
	return &Service{Options: o, nitro: verifier}, nil
}
