// Package providerkeys holds the keys that providers of models gave to the operator. The enclave makes a recipient; `raypher keys`
// encrypts a key to it and signs the change with an operator key, or in development has the enclave sign it; the parent carries
// ciphertext. A change is in the journal, by
// name and fingerprint, before it is in force.
//
// On tier tpm the keys are kept encrypted under a data key that this TPM alone opens; on tier software in a file, which is no
// protection; on tier nitro nothing is kept, and keys are secrets of the controller or of KMS. Where one of those has a secret of a key's name,
// that secret is the key.
//
// The gateway asks Secret for each call. No key may be in an error, a log, the journal or an answer.
package providerkeys

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/recipient"
)

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("malformed change of a key")
	ErrSignature = errors.New("change of a key is not signed by an operator key")
	// ErrVersion: the change is older than what is in force, or for another life of the enclave.
	ErrVersion = errors.New("change of a key is not for now")
	// ErrRefused: there is such a key already, or none, or no room, or this tier keeps none.
	ErrRefused = errors.New("key is not changed")
)

// renewal is how old a recipient may become before another one takes its place; the one before opens as long again.
const renewal = time.Hour

// Options of a set of keys.
type Options struct {
	State        string // the enclave's folder
	OperatorKeys [][]byte
	// Development is the operator key that signs changes nobody has signed; nil: those are refused.
	Development crypto.Signer
	Epoch       journal.EpochID
	Signer      journal.Signer // signs recipients
	// Keeps is false on tier nitro: nothing is kept, so nothing is taken.
	Keeps bool
	// DataKey returns a key of 32 bytes that encrypts what is kept, the same one each time; it is asked where something is kept. Nil: a plain
	// file, and whoever reads it has the keys.
	DataKey func() ([]byte, error)
	// Record puts an entry into the journal and returns when it is durable.
	Record func(ctx context.Context, entry []byte) error
	// Outside finds a secret of the controller or of KMS; nil: there is neither.
	Outside func(name string) ([]byte, error)
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Keys are those of one enclave. They are safe for concurrent use.
type Keys struct {
	opts     Options
	changing sync.Mutex // one change at a time

	mu         sync.RWMutex
	held       *stored // replaced as a whole
	recipients []*recipient.Key
	made       time.Time // of the first of them
}

// Open reads what is kept.
func Open(o Options) (*Keys, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &Keys{opts: o, held: &stored{}}
	if !o.Keeps {
		return k, nil
	}
	held, err := k.read()
	if err != nil {
		return nil, fmt.Errorf("provider keys: %w", err)
	}
	k.held = held
	if o.DataKey == nil && len(held.Keys) > 0 {
		o.Log.Warn("keys of providers lie in a file, which is no protection: tier software", "file", plainFile, "keys", len(held.Keys))
	}
	return k, nil
}

// Secret returns a key for one call; ok is false where there is none.
func (k *Keys) Secret(name string) (secret string, ok bool) {
	if k.opts.Outside != nil {
		if value, err := k.opts.Outside(name); err == nil {
			defer clear(value)
			secret := strings.TrimSuffix(string(value), "\n")
			return secret, checkSecret([]byte(secret)) == nil
		}
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if i, found := k.held.find(name); found {
		return string(k.held.Keys[i].Secret), true
	}
	return "", false
}

func (s *stored) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.Keys, name, func(h heldKey, name string) int { return strings.Compare(h.Name, name) })
}

// Key is what may be said of a key.
type Key struct {
	Name        string
	Changed     time.Time
	Fingerprint [4]byte
}

// List returns what is said of the keys that are kept, by name, and the version of the newest change.
func (k *Keys) List() ([]Key, uint64) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	list := make([]Key, len(k.held.Keys))
	for i, h := range k.held.Keys {
		list[i] = Key{h.Name, time.Unix(h.Changed, 0).UTC(), k.held.fingerprint(h.Secret)}
	}
	return list, k.held.Version
}

// fingerprint tells two keys apart, and tells nothing to whoever has not the key of the hash, which never leaves the enclave.
func (s *stored) fingerprint(secret []byte) [4]byte {
	h := hmac.New(sha256.New, s.Printer[:])
	h.Write(secret)
	return [4]byte(h.Sum(nil))
}

// Recipient returns whom a key is encrypted to, signed by the enclave's key; see package recipient.
func (k *Keys) Recipient() ([]byte, error) {
	if !k.opts.Keeps {
		return nil, errKeepsNone
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.opts.Now()
	if len(k.recipients) == 0 || now.Sub(k.made) > renewal || now.Before(k.made) {
		fresh, err := recipient.Make()
		if err != nil {
			return nil, err
		}
		k.recipients = append([]*recipient.Key{fresh}, k.recipients[:min(1, len(k.recipients))]...)
		k.made = now
	}
	return k.recipients[0].Sign(k.opts.Signer, k.opts.Epoch, now.Add(renewal))
}

var errKeepsNone = fmt.Errorf("%w: this enclave keeps no keys, for nothing of a Nitro Enclave outlives it: give the key to a controller (`raypher fleet secret put`), or name it as kms_secret in the start configuration; a key of cost_control.yaml is the secret of that name", ErrRefused)

// Apply takes a change that an operator signed, or in development nobody. It counts for the next call of Secret. Errors wrap one of this package, or what Record or the folder
// said: then nothing has changed but that the journal may have the entry.
func (k *Keys) Apply(ctx context.Context, change []byte) error {
	if !k.opts.Keeps {
		return errKeepsNone
	}
	signed, err := k.develop(change)
	if err != nil {
		return err
	}
	c, err := changes.Open(signed, k.opts.OperatorKeys)
	if err != nil {
		return err
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	next, print, err := k.next(c)
	if err != nil {
		return err
	}
	_, signer, err := changes.Read(signed)
	if err != nil {
		return err
	}
	entry, err := (&journal.ProviderKey{Name: c.Name, Action: c.Action, Version: c.Version, Fingerprint: print, Operator: signer}).Encode()
	if err == nil {
		entry, err = journal.NewEntry(journal.TypeProviderKey, k.opts.Now(), entry)
	}
	if err == nil {
		err = k.opts.Record(ctx, entry)
	}
	if err == nil {
		err = k.write(next)
	}
	if err != nil {
		return fmt.Errorf("key %s: %w", c.Name, err)
	}
	k.mu.Lock()
	k.held = next
	k.mu.Unlock()
	k.opts.Log.Info("a key of a provider was changed", "name", c.Name, "action", c.Action, "fingerprint", fmt.Sprintf("%x", print))
	return nil
}

// develop signs a change that nobody has signed, in development only. What is signed is returned as it is.
func (k *Keys) develop(change []byte) ([]byte, error) {
	c, err := decodeChange(change)
	switch {
	case err != nil:
		return change, nil
	case k.opts.Development == nil:
		return nil, fmt.Errorf("%w: only in development does the enclave sign for whoever asks: name an operator key with --key", ErrSignature)
	}
	return c.Sign(k.opts.Development)
}

// next is what is kept after a change, and the fingerprint of the key that it is about; k.changing is held.
func (k *Keys) next(c *Change) (*stored, [4]byte, error) {
	k.mu.RLock()
	held, recipients := k.held, k.recipients
	k.mu.RUnlock()
	none := [4]byte{}
	i, found := held.find(c.Name)
	switch {
	case c.Epoch != k.opts.Epoch:
		return nil, none, fmt.Errorf("%w: it was made for another start of the enclave: try again", ErrVersion)
	case c.Version <= held.Version:
		return nil, none, fmt.Errorf("%w: it has version %d, and %d is in force: try again", ErrVersion, c.Version, held.Version)
	case c.Action == journal.KeyAdded && found:
		return nil, none, fmt.Errorf("%w: there is a key %s: `raypher keys rotate` replaces it", ErrRefused, c.Name)
	case c.Action != journal.KeyAdded && !found:
		return nil, none, fmt.Errorf("%w: there is no key %s: `raypher keys list` names those that are there", ErrRefused, c.Name)
	case c.Action == journal.KeyAdded && len(held.Keys) >= MaxKeys:
		return nil, none, fmt.Errorf("%w: %d keys are held", ErrRefused, MaxKeys)
	}
	next := *held
	next.Version, next.Keys = c.Version, slices.Clone(held.Keys)
	if c.Action == journal.KeyRemoved {
		next.Keys = slices.Delete(next.Keys, i, i+1)
		return &next, held.fingerprint(held.Keys[i].Secret), nil
	}
	secret, err := open(recipients, c)
	if err != nil {
		return nil, none, err
	}
	key := heldKey{c.Name, k.opts.Now().Unix(), secret}
	if found {
		next.Keys[i] = key
	} else {
		next.Keys = slices.Insert(next.Keys, i, key)
	}
	return &next, next.fingerprint(secret), nil
}

// open decrypts a change with the recipient that it was made for.
func open(recipients []*recipient.Key, c *Change) ([]byte, error) {
	err := fmt.Errorf("%w: the enclave was asked for no recipient", ErrVersion)
	for _, r := range recipients {
		var secret []byte
		if secret, err = r.Open(Label(c.Name, c.Version, c.Epoch), c.Encapsulated, c.Ciphertext); err != nil {
			continue
		}
		if err := checkSecret(secret); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return secret, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrVersion, err)
}
