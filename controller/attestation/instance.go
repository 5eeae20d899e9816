package attestation

import (
	"errors"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
)

// instance judges the document of the NitroTPM of the instance on which an enclave runs: what its host booted, over the same nonce. The id of the
// instance ties it to the enclave's document.
func (s *Service) instance(raw []byte, enclave *nitro.Document, nonce []byte, list *golden.List) error {
	d, err := s.nitro.VerifyInstance(raw, nitro.Expected{At: s.Now(), MaxAge: MaxAge, Nonce: nonce, Golden: list})
	var refusal *attest.Refusal
	if errors.As(err, &refusal) {
		return attest.Refuse(CheckInstance, "%w", err)
	}
	if err != nil {
		return err
	}
	if d.InstanceID() != enclave.InstanceID() {
		return attest.Refuse(CheckInstance, "it is of %s, the enclave runs on %s", d.InstanceID(), enclave.InstanceID())
	}
	return nil
}
