// Package tpm verifies what a TPM 2.0 says about an enclave's signing key: the document of the tier tpm. It is for relying
// parties and imports neither side of the pair; the enclave's signer uses it for the format only.
//
// # What is proven, and by what
//
//   - The endorsement key (EK) belongs to a TPM of a vendor: its certificate leads to a root that the verifier chose.
//   - The attestation key (AK) lies in the TPM of that EK: credential activation, an exchange with a secret that only this
//     TPM can decrypt, and only for this AK ([NewChallenge]). The exchange convinces whoever ran it. For everyone else it is put
//     on record: an [Activation], signed by a key that the relying party trusts to have run it.
//   - The signing key lies in the same TPM and can never leave: the AK certified its name, and the public area behind
//     that name says fixedTPM, fixedParent, sensitiveDataOrigin.
//   - The platform booted what the PCRs say: the AK signed a quote of them, SHA-256 bank only.
//   - All of it is fresh and belongs together: both signatures cover one hash of the verifier's nonce, the epoch, the
//     configuration, the certificate and both keys ([Bundle.Qualifying]).
//
// What is not proven: that root on that machine did not ask the TPM for signatures. A TPM signs for whoever holds the
// machine; the tier says that the key cannot be taken elsewhere.
//
// References: TPM 2.0 Library, Parts 1 to 3 (TCG); EK Credential Profile 2.5 (TCG); PC Client Platform Firmware Profile (TCG)
// for the event log.
package tpm
