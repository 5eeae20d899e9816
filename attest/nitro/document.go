package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"encoding/binary"
	"math"
	"math/big"
	"strings"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
)

// Bounds of documents. Where no other source is named they are those of attestation_process.md, section 2.2, of
// aws-nitro-enclaves-nsm-api.
const (
	// MaxDocumentSize is the largest accepted document in bytes. The driver of the device returns at most 12 KiB (Linux,
	// drivers/misc/nsm.c, NSM_RESPONSE_MAX_SIZE 0x3000); the largest real one known has 7.5 KiB.
	MaxDocumentSize = 16 << 10
	// MaxFieldSize bounds the nonce, the user data and the public key, in bytes.
	MaxFieldSize = 1024

	maxCertificateSize = 1024
	maxCABundle        = 8   // certificates; real documents hold 4
	maxModuleID        = 128 // bytes; real ones have 39
	maxPCRs            = 32
	signatureSize      = 96 // ES384, RFC 9053, section 2.1: r and s, 48 bytes each
	digestName         = "SHA384"
)

// PCRSize is the size of a platform configuration register in bytes. The format knows 32 and 64 too; Nitro has SHA-384 only.
const PCRSize = sha512.Size384

// PCR is the value of one platform configuration register.
type PCR [PCRSize]byte

// protectedHeader is {1: -35}, the algorithm ES384 (RFC 9052, section 3.1; RFC 9053, section 2.1), and nothing else.
var protectedHeader = []byte{0xa1, 0x01, 0x38, 0x22}

// Document is what a verified attestation document says.
type Document struct {
	ModuleID  string      // of the enclave: instance id, "-enc" and the enclave's own id; of a NitroTPM: instance id, "-tpm" and an id
	Timestamp time.Time   // of the hypervisor's clock, in milliseconds, UTC
	PCRs      map[int]PCR // the locked registers by index, 0 to 31
	Debug     bool        // the enclave runs in debug mode: its console can be read from the host, and PCR0 to PCR2 are zero
	PublicKey []byte      // chosen by the enclave, at most MaxFieldSize bytes; nil when absent or null
	UserData  []byte      // the same
	Nonce     []byte      // the same
	NotAfter  time.Time   // the end of the certificate that signed the document, about three hours after its start
	Golden    *golden.Set // that allows the PCRs; nil where Expected has no list
}

// InstanceID is the EC2 instance that the enclave runs on, as in "i-0123456789abcdef0".
func (d *Document) InstanceID() string {
	instance, _, _ := strings.Cut(d.ModuleID, kindEnclave)
	instance, _, _ = strings.Cut(instance, kindInstance)
	return instance
}

// sealed is a document in parts, before anything in it is believed.
type sealed struct {
	kind        string // kindEnclave or kindInstance
	payload     []byte
	signature   []byte
	document    Document
	certificate []byte
	bundle      [][]byte // the root first
}

// The kinds of documents: of an enclave, and of the NitroTPM of an instance. They differ in the module's id and in the name of the registers.
const (
	kindEnclave  = "-enc"
	kindInstance = "-tpm"
)

// registers is the name of the field of a kind's PCRs.
var registers = map[string]string{kindEnclave: "pcrs", kindInstance: "nitrotpm_pcrs"}

// unseal takes the document of an enclave apart. The parts point into raw.
func unseal(raw []byte) (*sealed, error) { return unsealKind(raw, kindEnclave) }

func unsealKind(raw []byte, kind string) (*sealed, error) {
	if len(raw) > MaxDocumentSize {
		return nil, attest.Refuse(CheckSize, "more than %d bytes", MaxDocumentSize)
	}
	s, err := openSign1(raw)
	if err != nil {
		return nil, err
	}
	s.kind = kind
	return s, s.openPayload()
}

// openSign1 reads the COSE_Sign1 structure (RFC 9052, section 4.2), untagged as the hypervisor writes it.
func openSign1(raw []byte) (*sealed, error) {
	r := &reader{data: raw}
	if n := r.array("the COSE_Sign1 array"); r.err == nil && n != 4 {
		return nil, attest.Refuse(CheckCOSE, "an array of %d elements, COSE_Sign1 has 4", n)
	}
	protected := r.bytes("the protected header")
	if r.err == nil && !bytes.Equal(protected, protectedHeader) {
		return nil, attest.Refuse(CheckCOSE, "the protected header is %x, expected %x: ES384 and nothing else", protected[:min(len(protected), 32)], protectedHeader)
	}
	if n := r.fixedMap("the unprotected header"); r.err == nil && n != 0 {
		return nil, attest.Refuse(CheckCOSE, "the unprotected header has %d entries, expected none", n)
	}
	s := &sealed{payload: r.bytes("the payload")}
	s.signature = r.bytes("the signature")
	r.end("the document")
	if r.err != nil {
		return nil, r.err
	}
	if len(s.signature) != signatureSize {
		return nil, attest.Refuse(CheckCOSE, "the signature has %d bytes, ES384 makes %d", len(s.signature), signatureSize)
	}
	return s, nil
}

// signedBy checks the signature over the Sig_structure (RFC 9052, section 4.4).
func (s *sealed) signedBy(key *ecdsa.PublicKey) bool {
	structure := make([]byte, 0, len(s.payload)+32)
	structure = append(structure, majorArray<<5|4, majorText<<5|10)
	structure = append(structure, "Signature1"...)
	structure = append(structure, majorBytes<<5|byte(len(protectedHeader)))
	structure = append(structure, protectedHeader...)
	structure = append(structure, majorBytes<<5) // no external data
	structure = appendBytesHead(structure, len(s.payload))
	structure = append(structure, s.payload...)
	digest := sha512.Sum384(structure)
	half := signatureSize / 2
	return ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(s.signature[:half]), new(big.Int).SetBytes(s.signature[half:]))
}

// appendBytesHead appends the shortest head of a byte string of n bytes, n below 64 KiB.
func appendBytesHead(b []byte, n int) []byte {
	switch {
	case n < 24:
		return append(b, majorBytes<<5|byte(n))
	case n < 1<<8:
		return append(b, majorBytes<<5|24, byte(n))
	default:
		return binary.BigEndian.AppendUint16(append(b, majorBytes<<5|25), uint16(n))
	}
}

// mandatory fields, with the registers; the three others are optional and may be null.
var mandatory = []string{"module_id", "digest", "timestamp", "certificate", "cabundle"}

// openPayload reads the document proper. Names are matched exactly, in any order; each may stand once. Since 2026 the map
// can have indefinite length.
func (s *sealed) openPayload() error {
	r := &reader{data: s.payload}
	pairs, open := r.mapOrOpen("the document's map")
	seen := make(map[string]bool, 9)
	for i := uint64(0); r.err == nil; i++ {
		if open && r.next(breakByte) || !open && i == pairs {
			break
		}
		name := r.text("a field's name")
		if r.err == nil && seen[name] {
			r.fail("the field %.32q stands twice", name)
		}
		seen[name] = true
		if err := s.field(r, name); err != nil {
			return err
		}
	}
	r.end("the document's map")
	if r.err != nil {
		return r.err
	}
	for _, name := range append([]string{registers[s.kind]}, mandatory...) {
		if !seen[name] {
			return attest.Refuse(CheckFields, "no field %q", name)
		}
	}
	for _, index := range []int{0, 1, 2, 4} { // without these nothing says which image runs where, or what booted
		if _, ok := s.document.PCRs[index]; !ok {
			return attest.Refuse(CheckFields, "no PCR%d", index)
		}
	}
	return nil
}

// field reads the value of one field. What the reader refuses stays with the reader.
func (s *sealed) field(r *reader, name string) error {
	if r.err != nil {
		return nil
	}
	var err error
	switch name {
	case "module_id":
		s.document.ModuleID = r.text(name)
		err = judgeModuleID(r, s.document.ModuleID, s.kind)
	case "digest":
		if digest := r.text(name); r.err == nil && digest != digestName {
			err = attest.Refuse(CheckFields, "digest is %.32q, expected %q", digest, digestName)
		}
	case "timestamp":
		ms := r.uint(name)
		if r.err == nil && (ms == 0 || ms > math.MaxInt64) {
			err = attest.Refuse(CheckFields, "timestamp is %d", ms)
		}
		s.document.Timestamp = time.UnixMilli(int64(ms)).UTC()
	case registers[s.kind]:
		s.document.PCRs, err = readPCRs(r)
	case "certificate":
		s.certificate, err = readCertificate(r, name)
	case "cabundle":
		s.bundle, err = readBundle(r)
	case "public_key":
		s.document.PublicKey, err = readOptional(r, name)
	case "user_data":
		s.document.UserData, err = readOptional(r, name)
	case "nonce":
		s.document.Nonce, err = readOptional(r, name)
	default:
		err = attest.Refuse(CheckFields, "unknown field %.32q", name)
	}
	return err
}

// judgeModuleID wants an instance id, the kind and an id of the module, both ids in lower-case hexadecimal digits.
func judgeModuleID(r *reader, id, kind string) error {
	if r.err != nil {
		return nil
	}
	instance, enclave, ok := strings.Cut(id, kind)
	number, isInstance := strings.CutPrefix(instance, "i-")
	if !ok || !isInstance || !isHex(number) || !isHex(enclave) || len(id) > maxModuleID {
		return attest.Refuse(CheckFields, "module_id is %.64q, expected i-<hexadecimal>%s<hexadecimal>", id, kind)
	}
	return nil
}

func isHex(text string) bool {
	return text != "" && strings.Trim(text, "0123456789abcdef") == ""
}

func readPCRs(r *reader) (map[int]PCR, error) {
	n := r.fixedMap("pcrs")
	if r.err == nil && (n < 1 || n > maxPCRs) {
		return nil, attest.Refuse(CheckFields, "%d PCRs, a document holds 1 to %d", n, maxPCRs)
	}
	pcrs := make(map[int]PCR, maxPCRs)
	for range n {
		index := r.uint("a PCR's index")
		if r.err != nil {
			return nil, nil
		}
		if index >= maxPCRs {
			return nil, attest.Refuse(CheckFields, "PCR%d: indexes end at %d", index, maxPCRs-1)
		}
		if _, twice := pcrs[int(index)]; twice {
			r.fail("PCR%d stands twice", index)
			return nil, nil
		}
		value := r.bytes("a PCR's value")
		if r.err == nil && len(value) != PCRSize {
			return nil, attest.Refuse(CheckFields, "PCR%d has %d bytes, SHA-384 has %d", index, len(value), PCRSize)
		}
		var pcr PCR
		copy(pcr[:], value)
		pcrs[int(index)] = pcr
	}
	return pcrs, nil
}

func readBundle(r *reader) ([][]byte, error) {
	n := r.array("cabundle")
	if r.err == nil && (n < 1 || n > maxCABundle) {
		return nil, attest.Refuse(CheckFields, "cabundle holds %d certificates, expected 1 to %d", n, maxCABundle)
	}
	var bundle [][]byte
	for range n {
		certificate, err := readCertificate(r, "a certificate of cabundle")
		if err != nil || r.err != nil {
			return nil, err
		}
		bundle = append(bundle, certificate)
	}
	return bundle, nil
}

func readCertificate(r *reader, what string) ([]byte, error) {
	der := r.bytes(what)
	if r.err == nil && (len(der) < 1 || len(der) > maxCertificateSize) {
		return nil, attest.Refuse(CheckFields, "%s has %d bytes, expected 1 to %d", what, len(der), maxCertificateSize)
	}
	return der, nil
}

func readOptional(r *reader, name string) ([]byte, error) {
	value := r.bytesOrNull(name)
	if len(value) > MaxFieldSize {
		return nil, attest.Refuse(CheckFields, "%s has %d bytes, the limit is %d", name, len(value), MaxFieldSize)
	}
	return value, nil
}
