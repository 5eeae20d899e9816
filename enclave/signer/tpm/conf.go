package tpm

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	attest "github.com/raypher/raypher/attest/tpm"
)

// ConfigurationFile is the name of the configuration beside the enclave's start configuration.
const ConfigurationFile = "tpm.conf"

// DefaultPCRs are what evidence quotes where tpm.conf does not choose: firmware, its configuration, boot loader, Secure Boot.
var DefaultPCRs = []uint{0, 1, 2, 3, 4, 5, 6, 7}

// Configuration is tpm.conf: lines `name = value`, # for comments.
//
//	key_context = FILE      a key that tpm2_load has loaded (-c FILE); until the TPM is reset
//	key_handle = 0x81010010 a key that tpm2_evictcontrol has made persistent
//	pcrs = 0,1,2,3,4,5,6,7  which PCRs evidence quotes, of the SHA-256 bank
//	ek_certificate = FILE   the EK's certificate, for TPMs whose vendor keeps it elsewhere than in the TPM: DER, or PEM with
//	                        intermediate certificates behind it
type Configuration struct {
	KeyContext    *tpm2.TPMSContext
	KeyHandle     tpm2.TPMHandle
	PCRs          []uint // ascending; empty: DefaultPCRs
	EKCertificate []byte
	Intermediates [][]byte // certificates that evidence carries along; of ek_certificate
}

const maxConfiguration = 64 << 10 // bytes of any file read here

// Persistent handles of owners (Registry of Reserved TPM 2.0 Handles, 2.3.1).
const (
	firstPersistent = 0x81000000
	lastPersistent  = 0x817fffff
)

// ReadConfiguration reads tpm.conf and the files that it names, whose paths are relative to it. A missing tpm.conf is the zero
// value.
func ReadConfiguration(path string) (Configuration, error) {
	var c Configuration
	text, err := readSmall(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		if !found {
			return c, fmt.Errorf("%s:%d: expected `name = value`", path, number)
		}
		if err := c.set(strings.TrimSpace(name), strings.TrimSpace(value), filepath.Dir(path)); err != nil {
			return c, fmt.Errorf("%s:%d: %w", path, number, err)
		}
	}
	if c.KeyContext != nil && c.KeyHandle != 0 {
		return c, fmt.Errorf("%s: key_context and key_handle both name the key: keep one", path)
	}
	return c, lines.Err()
}

func (c *Configuration) set(name, value, dir string) error {
	file := value
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	switch name {
	case "key_context":
		text, err := readSmall(file)
		if err != nil {
			return fmt.Errorf("key_context: %w", err)
		}
		if c.KeyContext, err = parseContext(text); err != nil {
			return fmt.Errorf("key_context %s: %w: name a file that tpm2_load -c has written", file, err)
		}
	case "key_handle":
		handle, err := strconv.ParseUint(value, 0, 32)
		if err != nil || handle < firstPersistent || handle > lastPersistent {
			return fmt.Errorf("key_handle %q: expected a persistent handle, %#x to %#x", value, firstPersistent, lastPersistent)
		}
		c.KeyHandle = tpm2.TPMHandle(handle)
	case "pcrs":
		return c.setPCRs(value)
	case "ek_certificate":
		text, err := readSmall(file)
		if err != nil {
			return fmt.Errorf("ek_certificate: %w", err)
		}
		if err := c.setCertificates(text); err != nil {
			return fmt.Errorf("ek_certificate %s: %w", file, err)
		}
	default:
		return fmt.Errorf("unknown name %q: use key_context, key_handle, pcrs or ek_certificate", name)
	}
	return nil
}

// setCertificates takes one certificate in DER, or several in PEM, the EK's first.
func (c *Configuration) setCertificates(text []byte) error {
	certificates := [][]byte{text}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		certificates = nil
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			certificates = append(certificates, block.Bytes)
		}
	}
	if len(certificates) == 0 || len(certificates) > 1+attest.MaxIntermediates {
		return fmt.Errorf("%d certificates, expected the EK's and at most %d behind it", len(certificates), attest.MaxIntermediates)
	}
	for _, der := range certificates {
		if len(der) > attest.MaxCertificateSize {
			return fmt.Errorf("a certificate of %d bytes, at most %d", len(der), attest.MaxCertificateSize)
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	c.EKCertificate, c.Intermediates = certificates[0], certificates[1:]
	return nil
}

func (c *Configuration) setPCRs(value string) error {
	c.PCRs = nil
	for _, word := range strings.Split(value, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(word), 10, 8)
		if err != nil || n >= attest.PCRCount {
			return fmt.Errorf("pcrs: %q: expected numbers of 0 to %d, separated by commas", word, attest.PCRCount-1)
		}
		c.PCRs = append(c.PCRs, uint(n))
	}
	slices.Sort(c.PCRs)
	c.PCRs = slices.Compact(c.PCRs)
	return nil
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfiguration {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxConfiguration)
	}
	return os.ReadFile(path)
}

// Numbers of tpm2-tools' context files (tpm2-tools lib/files.c, files_save_tpm_context_to_file).
const (
	contextMagic   = 0xbadcc0de
	contextVersion = 1
	transientSaved = 0x80000000 // saved handle of an object; 0x80000002 for one with stClear
)

// parseContext reads a context file of tpm2-tools: a header of its own, the fields of TPMS_CONTEXT in another order, and in the
// blob the TPM's own blob with the software stack's metadata behind it (tpm2-tss esys_context_save.c,
// IESYS_CONTEXT_DATA).
func parseContext(file []byte) (*tpm2.TPMSContext, error) {
	const head = 4 + 4 + 4 + 4 + 8 + 2
	if len(file) < head || binary.BigEndian.Uint32(file) != contextMagic {
		return nil, errors.New("not a context file of tpm2-tools")
	}
	if v := binary.BigEndian.Uint32(file[4:]); v != contextVersion {
		return nil, fmt.Errorf("context file of version %d, expected %d", v, contextVersion)
	}
	c := &tpm2.TPMSContext{
		Hierarchy:   tpm2.TPMIRHHierarchy(binary.BigEndian.Uint32(file[8:])),
		SavedHandle: tpm2.TPMIDHSaved(binary.BigEndian.Uint32(file[12:])),
		Sequence:    binary.BigEndian.Uint64(file[16:]),
	}
	if c.SavedHandle>>24 != transientSaved>>24 {
		return nil, errors.New("the context of a session, not of a key")
	}
	blob := file[head:]
	if len(blob) != int(binary.BigEndian.Uint16(file[24:])) {
		return nil, errors.New("cut off, or with something behind it")
	}
	const wrap = 4 + 2 // reserved, size of the TPM's blob
	if len(blob) > wrap && binary.BigEndian.Uint32(blob) == 0 {
		if size := int(binary.BigEndian.Uint16(blob[4:])); wrap+size <= len(blob) {
			blob = blob[wrap : wrap+size]
		}
	}
	if len(blob) == 0 {
		return nil, errors.New("without a blob")
	}
	c.ContextBlob = tpm2.TPM2BContextData{Buffer: blob}
	return c, nil
}
