package nitro

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hf/nitrite"

	"github.com/raypher/raypher/attest"
)

// secondOpinion asks another implementation, which must accept the document and read the same in it. It is never asked first:
// it panics on some documents and accepts many that are refused here (docs/attest.md lists them).
//
// For a chain that it has not seen, trusted is the root. For one that both implementations accepted before, byte for byte,
// trusted is the leaf: crypto/x509 then takes the leaf as it is and checks its validity alone.
func secondOpinion(raw []byte, s *sealed, at time.Time, trusted *x509.Certificate) error {
	roots := x509.NewCertPool()
	roots.AddCert(trusted)
	other, err := askNitrite(raw, nitrite.VerifyOptions{Roots: roots, CurrentTime: at})
	if err != nil {
		return attest.Refuse(CheckSecondOpinion, "%w", err)
	}
	if why := s.differsFrom(other); why != "" {
		return attest.Refuse(CheckSecondOpinion, "%s differs", why)
	}
	return nil
}

func askNitrite(raw []byte, o nitrite.VerifyOptions) (result *nitrite.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	result, err = nitrite.Verify(raw, o)
	switch {
	case err != nil: // it can come with a result
		return nil, err
	case result == nil || result.Document == nil || !result.SignatureOK:
		return nil, errors.New("no error and no result")
	}
	return result, nil
}

// differsFrom names the first part that the other implementation reads differently.
func (s *sealed) differsFrom(other *nitrite.Result) string {
	d, o := &s.document, other.Document
	samePCR := func(a PCR, b []byte) bool { return bytes.Equal(a[:], b) }
	theirs := make(map[int][]byte, len(o.PCRs))
	for index, value := range o.PCRs {
		theirs[int(index)] = value
	}
	sameBundle := len(o.CABundle) == len(s.bundle)
	for i := 0; sameBundle && i < len(s.bundle); i++ {
		sameBundle = bytes.Equal(o.CABundle[i], s.bundle[i])
	}
	for _, part := range []struct {
		name string
		same bool
	}{
		{"protected header", bytes.Equal(other.Protected, protectedHeader)},
		{"payload", bytes.Equal(other.Payload, s.payload)},
		{"signature", bytes.Equal(other.Signature, s.signature)},
		{"module_id", o.ModuleID == d.ModuleID},
		{"digest", o.Digest == digestName},
		{"timestamp", o.Timestamp == uint64(d.Timestamp.UnixMilli())},
		{"pcrs", maps.EqualFunc(d.PCRs, theirs, samePCR)},
		{"certificate", bytes.Equal(o.Certificate, s.certificate)},
		{"cabundle", sameBundle},
		{"public_key", bytes.Equal(o.PublicKey, d.PublicKey) && (o.PublicKey == nil) == (d.PublicKey == nil)},
		{"user_data", bytes.Equal(o.UserData, d.UserData) && (o.UserData == nil) == (d.UserData == nil)},
		{"nonce", bytes.Equal(o.Nonce, d.Nonce) && (o.Nonce == nil) == (d.Nonce == nil)},
	} {
		if !part.same {
			return part.name
		}
	}
	return ""
}
