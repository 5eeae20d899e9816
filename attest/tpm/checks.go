package tpm

import (
	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
)

// The checks, in the order of Verify. A refusal names the first that fails.
const (
	CheckFormat      attest.Check = "format"      // strict CBOR, sizes, ascending PCRs
	CheckNonce       attest.Check = "nonce"       // the verifier's, or none where none is expected
	CheckFreshness   attest.Check = "freshness"   // with MaxAge only
	CheckKey         attest.Check = "key"         // P-256, ECDSA with SHA-256, name algorithm SHA-256
	CheckAttributes  attest.Check = "attributes"  // made in the TPM, cannot leave it, restricted exactly for an AK
	CheckCertified   attest.Check = "certified"   // the AK certified the signing key, for this bundle
	CheckQuote       attest.Check = "quote"       // the AK quoted one or more PCRs of the SHA-256 bank, for this bundle
	CheckPCRs        attest.Check = "pcrs"        // the values are those that were quoted
	CheckEndorsement attest.Check = "endorsement" // the EK certificate leads to a root
	// CheckActivation: somebody who is trusted has checked that the AK lies in the TPM of the EK. Without it an EK
	// certificate of one machine and an AK of another, or of no TPM at all, would pass: the cuckoo.
	CheckActivation attest.Check = "activation"
	// With Golden only; golden.CheckValidity may stand in its place.
	CheckGolden   attest.Check = golden.CheckValues // the PCRs are those of a golden set
	CheckEventLog attest.Check = "event log"        // with EventLog only: its replay gives the quoted PCRs
)
