package eif

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"hash"
)

// PCR is the value of one platform configuration register, SHA-384.
type PCR = [sha512.Size384]byte

// Measurements are the PCR values with which an image boots. The hypervisor sets more of them (PCR3, PCR4), which are about the
// instance and not about the image.
type Measurements struct {
	PCR0, PCR1, PCR2 PCR
	PCR8             *PCR // nil: not signed, and the register is zero
}

// MarshalJSON writes what nitro-cli prints as Measurements, without its HashAlgorithm.
func (m Measurements) MarshalJSON() ([]byte, error) {
	text := struct {
		PCR0, PCR1, PCR2 string
		PCR8             string `json:",omitempty"`
	}{PCR0: hex.EncodeToString(m.PCR0[:]), PCR1: hex.EncodeToString(m.PCR1[:]), PCR2: hex.EncodeToString(m.PCR2[:])}
	if m.PCR8 != nil {
		text.PCR8 = hex.EncodeToString(m.PCR8[:])
	}
	return json.Marshal(text)
}

// measure computes PCR0 to PCR2.
func measure(sections []Section) Measurements {
	image, boot, application := sha512.New384(), sha512.New384(), sha512.New384()
	first := true
	for _, s := range sections {
		switch s.Type {
		case Kernel, CommandLine:
			image.Write(s.Data)
			boot.Write(s.Data)
		case Ramdisk:
			image.Write(s.Data)
			if first {
				boot.Write(s.Data)
			} else {
				application.Write(s.Data)
			}
			first = false
		}
	}
	return Measurements{PCR0: extendDigest(image), PCR1: extendDigest(boot), PCR2: extendDigest(application)}
}

// extend is the value of a register that was zero and got the digest of these bytes (tpm_extend_finalize_reset in
// src/defs/eif_hasher.rs).
func extend(content []byte) PCR {
	h := sha512.New384()
	h.Write(content)
	return extendDigest(h)
}

func extendDigest(content hash.Hash) PCR {
	var zero PCR
	return sha512.Sum384(content.Sum(zero[:]))
}

// Digest is the SHA-384 of the contents.
func (s Section) Digest() [sha512.Size384]byte { return sha512.Sum384(s.Data) }
