package providerkeys

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/recipient"
)

// changeType is the COSE header `typ` of a signed change.
const changeType = "application/raypher-provider-key+cbor"

// Bounds, in bytes where nothing else is said.
const (
	MaxKeys   = 256  // that are held
	MaxSecret = 8192 // of one
	MaxName   = 128
	MaxChange = MaxSecret + 1024 // of a signed change
)

// Change is what an operator says of one key. The zero value is not valid.
type Change struct {
	Name    string
	Version uint64                    // larger than that of the change before, whatever its name was
	Action  journal.ProviderKeyAction // add refuses a name that is there, rotate and remove one that is not
	Epoch   journal.EpochID           // of the enclave that it is for: no other one takes it, nor does this one after a restart
	// The secret, encrypted to the enclave's recipient under Label; empty in a removal.
	Encapsulated, Ciphertext []byte
}

type wireChange struct {
	Name         string                    `cbor:"1,keyasint"`
	Version      uint64                    `cbor:"2,keyasint"`
	Action       journal.ProviderKeyAction `cbor:"3,keyasint"`
	Epoch        journal.EpochID           `cbor:"4,keyasint"`
	Encapsulated []byte                    `cbor:"5,keyasint"`
	Ciphertext   []byte                    `cbor:"6,keyasint"`
}

// Label is what the secret of a change is encrypted together with.
func Label(name string, version uint64, epoch journal.EpochID) recipient.Label {
	return recipient.Label{Name: name, Version: version, Host: epoch.String()}
}

// Seal encrypts a secret for a change.
func (c *Change) Seal(to *recipient.Recipient, secret []byte) (err error) {
	if err := checkSecret(secret); err != nil {
		return err
	}
	c.Epoch = to.Epoch
	c.Encapsulated, c.Ciphertext, err = to.Seal(Label(c.Name, c.Version, c.Epoch), secret)
	return err
}

// Unsigned returns the change as an enclave in development takes it, which signs it itself.
func (c *Change) Unsigned() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("change of a key: %w", err)
	}
	return strictcbor.Encode(wireChange(*c)), nil
}

// Sign returns the change signed with an operator key: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256.
func (c *Change) Sign(key crypto.Signer) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("sign change of a key: %w", err)
	}
	signed, err := sign1.Sign(changeType, strictcbor.Encode(wireChange(*c)), key)
	if err != nil {
		return nil, fmt.Errorf("sign change of a key: %w", err)
	}
	return signed, nil
}

// changes are the signed ones.
var changes = sign1.Kind[*Change]{
	Type: changeType, Limit: MaxChange, Malformed: ErrMalformed, Untrusted: ErrSignature, Make: "make one with `raypher keys`",
	Trust:  "name a key with --key whose operator_key line is in the start configuration",
	Decode: func(_, payload []byte) (*Change, error) { return decodeChange(payload) },
}

func decodeChange(payload []byte) (*Change, error) {
	var w wireChange
	if err := strictcbor.Decode(payload, MaxChange, &w); err != nil {
		return nil, err
	}
	c := Change(w)
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c, nil
}

func (c *Change) check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	removal := c.Action == journal.KeyRemoved
	switch {
	case c.Action < journal.KeyAdded || c.Action > journal.KeyRemoved:
		return fmt.Errorf("action %d is none of 1, 2, 3", c.Action)
	case c.Version == 0:
		return errors.New("version: use a number from 1, larger than the last one")
	case removal && len(c.Encapsulated)+len(c.Ciphertext) > 0:
		return errors.New("a removal with a secret")
	case !removal && (len(c.Encapsulated) != recipient.Encapsulation || len(c.Ciphertext) <= recipient.Overhead || len(c.Ciphertext) > MaxSecret+recipient.Overhead):
		return fmt.Errorf("a secret has 1 to %d bytes", MaxSecret)
	}
	return nil
}

// CheckName holds that a name is one that cost_control.yaml can name: 1 to MaxName of a-z A-Z 0-9 . - _ : /.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("name of a key: %d bytes, use 1 to %d", len(name), MaxName)
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_', c == ':', c == '/':
		default:
			return fmt.Errorf("name of a key %.80q: use letters of English, digits, and . - _ : /", name)
		}
	}
	return nil
}

// checkSecret holds that a secret can stand in a header of HTTP: visible ASCII. Its error does not have it.
func checkSecret(secret []byte) error {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return fmt.Errorf("secret of %d bytes, use 1 to %d", len(secret), MaxSecret)
	}
	for _, c := range secret {
		if c <= ' ' || c > '~' {
			return errors.New("the secret has other bytes than visible ASCII: give the key alone, without spaces or lines around it")
		}
	}
	return nil
}
