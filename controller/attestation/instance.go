package attestation

import (
	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
)

// instance judges the document of the NitroTPM of the instance on which an enclave runs.
func (s *Service) instance(raw []byte, enclave *nitro.Document, nonce []byte, list *golden.List) error {
	return attest.Refuse(CheckInstance, "this controller does not read NitroTPM documents: leave it out")
}
