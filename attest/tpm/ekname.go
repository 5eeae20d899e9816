package tpm

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// TPMName is what an EK certificate says of the TPM (TCG EK Credential Profile, 3.2.9). It decides nothing; texts are printable.
type TPMName struct {
	Manufacturer string // id of four letters, from the TCG's registry: "INTC"; or id:HEX as the certificate has it
	Model        string
	Version      string // of the firmware when the certificate was made
}

// subjectAltName of an EK certificate is critical, because its subject is empty, and names the TPM in a directoryName, which
// crypto/x509 does not read: it reports the extension as unhandled.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// Attributes of the name (TCG EK Credential Profile, 3.2.9; OIDs of TCG's tcg-attribute arc).
var (
	tpmManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	tpmModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	tpmVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

const directoryName = 4 // of GeneralName (RFC 5280, 4.2.1.6)

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// tpmName reads the TPM's name. Vendors write each attribute into a set of its own or all into one; other kinds of names may stand
// beside it. A certificate without a directoryName is an error.
func tpmName(c *x509.Certificate) (*TPMName, error) {
	for _, e := range c.Extensions {
		if e.Id.Equal(subjectAltName) {
			return parseTPMName(e.Value)
		}
	}
	return nil, errors.New("there is none")
}

func parseTPMName(extension []byte) (*TPMName, error) {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(extension, &names); err != nil || len(rest) > 0 {
		return nil, errors.New("not a list of names")
	}
	for _, name := range names {
		if name.Class != asn1.ClassContextSpecific || name.Tag != directoryName {
			continue
		}
		var sets []asn1.RawValue
		if rest, err := asn1.Unmarshal(name.Bytes, &sets); err != nil || len(rest) > 0 {
			return nil, errors.New("a directory name that cannot be read")
		}
		var out TPMName
		for _, set := range sets {
			if err := out.add(set.FullBytes); err != nil {
				return nil, err
			}
		}
		return &out, nil
	}
	return nil, errors.New("it names no TPM (no directory name)")
}

func (n *TPMName) add(set []byte) error {
	var attributes []attribute
	if rest, err := asn1.UnmarshalWithParams(set, &attributes, "set"); err != nil || len(rest) > 0 {
		return fmt.Errorf("a directory name that cannot be read")
	}
	for _, a := range attributes {
		var text string
		if _, err := asn1.Unmarshal(a.Value.FullBytes, &text); err != nil {
			continue // other types than text: none of ours
		}
		switch {
		case a.Type.Equal(tpmManufacturer):
			n.Manufacturer = vendor(text)
		case a.Type.Equal(tpmModel):
			n.Model = printable(text)
		case a.Type.Equal(tpmVersion):
			n.Version = printable(text)
		}
	}
	return nil
}

// vendor turns "id:494E5443" into "INTC" (TCG TPM Vendor ID Registry: four ASCII characters, NUL or space behind).
func vendor(text string) string {
	digits, ok := strings.CutPrefix(text, "id:")
	var id [4]byte
	if _, err := fmt.Sscanf(digits, "%02x%02x%02x%02x", &id[0], &id[1], &id[2], &id[3]); !ok || len(digits) != 8 || err != nil {
		return printable(text)
	}
	letters := strings.TrimRight(string(id[:]), "\x00 ")
	if letters == "" || printable(letters) != letters {
		return printable(text)
	}
	return letters
}

// printable keeps the printable ASCII of a bounded text.
func printable(text string) string {
	const most = 64
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text[:min(len(text), most)])
}
