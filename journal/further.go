package journal

import (
	"errors"
	"fmt"
	"strings"

	"github.com/raypher/raypher/internal/strictcbor"
)

// Purpose says what a further key of the enclave signs. A key has one purpose and one name for good.
type Purpose string

// The purposes.
const (
	// PurposeNamespace: heads over visas of the namespace that is its name (SignNamespaceHead).
	PurposeNamespace Purpose = "namespace"
	// PurposeTLSAuthority: certificates of agents in the trust domain that is its name.
	PurposeTLSAuthority Purpose = "tls-authority"
	// PurposeTLS: TLS 1.3 handshakes of the agent whose SPIFFE ID is its name.
	PurposeTLS Purpose = "tls"
)

// MaxKeyNameSize bounds the name of a further key, in bytes.
const MaxKeyNameSize = 400

// FurtherKey is the payload of an entry of TypeKey: a further key of the enclave, written before its first use in an epoch.
type FurtherKey struct {
	Purpose     Purpose     `cbor:"1,keyasint"`
	Name        string      `cbor:"2,keyasint"`
	PublicKey   []byte      `cbor:"3,keyasint"` // PKIX DER, P-256
	KeyEvidence KeyEvidence `cbor:"4,keyasint"` // without a nonce, for this epoch
}

// Encode returns the payload.
func (f *FurtherKey) Encode() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("key entry: %w", err)
	}
	return strictcbor.Encode(f), nil
}

// DecodeFurtherKey reads the payload of an entry of TypeKey. It checks the form of the key, not the evidence.
func DecodeFurtherKey(payload []byte) (*FurtherKey, error) {
	var f FurtherKey
	if err := strictcbor.Decode(payload, MaxEntrySize, &f); err != nil {
		return nil, fmt.Errorf("key entry: %w", err)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("key entry: %w", err)
	}
	return &f, nil
}

func (f *FurtherKey) check() error {
	switch f.Purpose {
	case PurposeNamespace, PurposeTLSAuthority, PurposeTLS:
	default:
		return fmt.Errorf("purpose %.32q", f.Purpose)
	}
	if f.Name == "" || len(f.Name) > MaxKeyNameSize {
		return fmt.Errorf("a name of %d bytes, expected 1 to %d", len(f.Name), MaxKeyNameSize)
	}
	if _, err := ParseKey(f.PublicKey); err != nil {
		return err
	}
	return f.KeyEvidence.check()
}

// TLSUse is the payload of an entry of TypeTLS: what a TLS key was used for, written before the use.
type TLSUse struct {
	Use     string `cbor:"1,keyasint"` // UseCertificate | UseHandshake
	Subject string `cbor:"2,keyasint"` // SPIFFE ID
	AgentID string `cbor:"3,keyasint"` // as the visa has it: asserted by the parent
	VisaID  []byte `cbor:"4,keyasint"` // cti of the visa that the use was granted on
	KeyHash Hash   `cbor:"5,keyasint"` // SHA-256 of the agent's TLS key (PKIX DER)
	// Detail is of a certificate its serial number, of a handshake the transcript hash that is signed (RFC 8446 section 4.4.1).
	Detail []byte `cbor:"6,keyasint"`
}

// The uses.
const (
	UseCertificate = "certificate"
	UseHandshake   = "handshake"
)

const (
	visaIDSize = 16 // of package visa
	maxDetail  = 64 // bytes
	maxTLSUse  = 2 << 10
)

// Encode returns the payload.
func (u *TLSUse) Encode() ([]byte, error) {
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("tls entry: %w", err)
	}
	return strictcbor.Encode(u), nil
}

// DecodeTLSUse reads the payload of an entry of TypeTLS.
func DecodeTLSUse(payload []byte) (*TLSUse, error) {
	var u TLSUse
	if err := strictcbor.Decode(payload, maxTLSUse, &u); err != nil {
		return nil, fmt.Errorf("tls entry: %w", err)
	}
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("tls entry: %w", err)
	}
	return &u, nil
}

func (u *TLSUse) check() error {
	switch {
	case u.Use != UseCertificate && u.Use != UseHandshake:
		return fmt.Errorf("use %.32q", u.Use)
	case !strings.HasPrefix(u.Subject, "spiffe://") || len(u.Subject) > MaxKeyNameSize:
		return errors.New("the subject is no SPIFFE ID of a sound size")
	case u.AgentID == "" || len(u.AgentID) > MaxKeyNameSize:
		return fmt.Errorf("an agent id of %d bytes", len(u.AgentID))
	case len(u.VisaID) != visaIDSize:
		return fmt.Errorf("a visa id of %d bytes, expected %d", len(u.VisaID), visaIDSize)
	case len(u.Detail) == 0 || len(u.Detail) > maxDetail:
		return fmt.Errorf("detail of %d bytes, expected 1 to %d", len(u.Detail), maxDetail)
	}
	return nil
}
