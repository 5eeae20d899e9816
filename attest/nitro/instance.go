package nitro

import (
	"crypto/x509"

	"github.com/raypher/raypher/attest/golden"
)

// VerifyInstance verifies the document of a NitroTPM: what an EC2 instance booted, in its registers, under the same authorities as the documents
// of enclaves. The checks are those of Verify but CheckInstance, CheckDebug and CheckSecondOpinion, which are about enclaves; golden sets
// are those of golden.TierNitroTPM. It is tied to an enclave by InstanceID, which the caller compares.
//
// The form is that of documents as AWS describes and others show them: module_id i-<hexadecimal>-tpm<hexadecimal>, the field
// nitrotpm_pcrs. No real one was at hand when this was written.
func (v *Verifier) VerifyInstance(document []byte, e Expected) (*Document, error) {
	return v.verify(document, e, kindInstance)
}

func (d *Document) judgeInstance(leaf *x509.Certificate, e *Expected) error {
	return d.judge(leaf, e, golden.TierNitroTPM)
}
