package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
)

// Bounds of what KMS sends.
const (
	// MaxValue is the longest value in bytes: KMS encrypts no more than that (API_Encrypt, Plaintext).
	MaxValue = 4096
	// maxEnvelope is the longest message in bytes. A value of MaxValue makes less than 5 KiB.
	maxEnvelope = 8 << 10
	// maxIdentifier bounds the name of the recipient's key. KMS writes 32 bytes.
	maxIdentifier = 64
)

// errEnvelope is the one error of everything that depends on keys: which step failed says nothing.
var errEnvelope = errors.New("decrypt KMS's answer: it was not made for the key of this call, or it is damaged")

// The only algorithms that are taken, as they are encoded. KMS writes the parameters of SHA-256 as NULL, OpenSSL leaves them out; a reader
// takes both (RFC 4055, section 2.1).
var (
	envelopedData = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03} // 1.2.840.113549.1.7.3
	plainData     = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01} // 1.2.840.113549.1.7.1
	aes256CBC     = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a} // 2.16.840.1.101.3.4.1.42
	version2      = []byte{2}

	// RSAES-OAEP (1.2.840.113549.1.1.7) with SHA-256, and MGF1 (1.2.840.113549.1.1.8) with SHA-256.
	oaepWithNull = []byte{
		0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07,
		0x30, 0x2f,
		0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
		0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08,
		0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
	}
	oaepWithout = []byte{
		0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07,
		0x30, 0x2b,
		0xa0, 0x0d, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
		0xa1, 0x1a, 0x30, 0x18, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08,
		0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
	}
)

// envelope is a CMS EnvelopedData (RFC 5652, section 6.1) for one recipient.
type envelope struct {
	key     []byte // the content's key, encrypted
	iv      []byte
	content []byte // encrypted
}

// parseEnvelope reads the ContentInfo that KMS returns as CiphertextForRecipient. It takes what KMS writes and nothing else of what CMS
// allows: version 2, one recipient that is named by its key, RSAES-OAEP with SHA-256, AES-256-CBC, no attributes.
func parseEnvelope(message []byte) (*envelope, error) {
	if len(message) > maxEnvelope {
		return nil, fmt.Errorf("CiphertextForRecipient: %d bytes, at most %d", len(message), maxEnvelope)
	}
	e := &envelope{}
	b := &ber{rest: message}
	b.in(tagSequence, "ContentInfo", func(b *ber) {
		b.exactly(tagObject, "contentType", envelopedData)
		b.in(tagContext0Compound, "content", func(b *ber) {
			b.in(tagSequence, "EnvelopedData", func(b *ber) {
				b.exactly(tagInteger, "version", version2)
				b.in(tagSet, "recipientInfos", e.readRecipient)
				b.in(tagSequence, "encryptedContentInfo", e.readContent)
			})
		})
	})
	if b.err == nil && len(b.rest) > 0 {
		b.fail("%d bytes after the message", len(b.rest))
	}
	if b.err != nil {
		return nil, fmt.Errorf("CiphertextForRecipient: %w", b.err)
	}
	return e, nil
}

// exactly reads an element that has to have one of these contents.
func (b *ber) exactly(tag byte, what string, allowed ...[]byte) {
	contents := b.bytes(tag, what)
	if b.err == nil && !slices.ContainsFunc(allowed, func(a []byte) bool { return bytes.Equal(a, contents) }) {
		b.fail("%s: %x is not what KMS uses", what, contents[:min(len(contents), maxIdentifier)])
	}
}

// readRecipient reads a KeyTransRecipientInfo (RFC 5652, section 6.2.1).
func (e *envelope) readRecipient(b *ber) {
	b.in(tagSequence, "KeyTransRecipientInfo", func(b *ber) {
		b.exactly(tagInteger, "recipient's version", version2)
		if id := b.bytes(tagContext0, "subjectKeyIdentifier"); len(id) > maxIdentifier {
			b.fail("subjectKeyIdentifier: %d bytes", len(id))
		}
		b.exactly(tagSequence, "keyEncryptionAlgorithm", oaepWithNull, oaepWithout)
		if e.key = b.bytes(tagOctets, "encryptedKey"); b.err == nil && len(e.key) != keyBits/8 {
			b.fail("encryptedKey: %d bytes, expected %d", len(e.key), keyBits/8)
		}
	})
}

// readContent reads an EncryptedContentInfo. The content is one string, or, as KMS writes it, a sequence of them.
func (e *envelope) readContent(b *ber) {
	b.exactly(tagObject, "type of the content", plainData)
	b.in(tagSequence, "contentEncryptionAlgorithm", func(b *ber) {
		b.exactly(tagObject, "cipher", aes256CBC)
		if e.iv = b.bytes(tagOctets, "initialization vector"); b.err == nil && len(e.iv) != aes.BlockSize {
			b.fail("initialization vector: %d bytes", len(e.iv))
		}
	})
	if b.next() == tagContext0 {
		e.content = b.bytes(tagContext0, "encryptedContent")
	} else {
		b.in(tagContext0Compound, "encryptedContent", func(b *ber) {
			for b.next() == tagOctets {
				part := b.bytes(tagOctets, "part of encryptedContent")
				if b.err == nil && len(part) == 0 {
					b.fail("encryptedContent: an empty part")
				}
				e.content = append(e.content, part...)
			}
		})
	}
	if n := len(e.content); b.err == nil && (n == 0 || n%aes.BlockSize != 0 || n > MaxValue+aes.BlockSize) {
		b.fail("encryptedContent: %d bytes", n)
	}
}

// open decrypts. Whatever fails takes the same steps and gives the same error. Nothing authenticates the content but the connection on which it
// came.
func (e *envelope) open(key *rsa.PrivateKey) ([]byte, error) {
	contentKey, good := e.unwrap(key)
	defer clear(contentKey[:])
	return e.decrypt(contentKey, good)
}

// unwrap decrypts the content's key. One that cannot be decrypted is replaced by a random one, and good is 0.
func (e *envelope) unwrap(key *rsa.PrivateKey) (contentKey *[32]byte, good int) {
	unwrapped, err := rsa.DecryptOAEP(sha256.New(), nil, key, e.key, nil)
	defer clear(unwrapped)
	contentKey = new([32]byte)
	rand.Read(contentKey[:]) // never fails
	if err == nil && len(unwrapped) == len(contentKey) {
		copy(contentKey[:], unwrapped)
		good = 1
	}
	return contentKey, good
}

// decrypt decrypts the content and takes its padding off, if good is 1 and stays it.
func (e *envelope) decrypt(contentKey *[32]byte, good int) ([]byte, error) {
	block, err := aes.NewCipher(contentKey[:])
	if err != nil {
		return nil, errEnvelope
	}
	plain := make([]byte, len(e.content))
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(plain, e.content)

	// The last byte says how many bytes of padding there are, each of which has that value (RFC 5652, section 6.3).
	padding := int(plain[len(plain)-1])
	good &= subtle.ConstantTimeLessOrEq(1, padding) & subtle.ConstantTimeLessOrEq(padding, aes.BlockSize)
	for i := 1; i <= aes.BlockSize; i++ {
		counts := subtle.ConstantTimeLessOrEq(i, padding)
		equal := subtle.ConstantTimeByteEq(plain[len(plain)-i], byte(padding))
		good &= subtle.ConstantTimeSelect(counts, equal, 1)
	}
	if good != 1 {
		clear(plain)
		return nil, errEnvelope
	}
	return plain[:len(plain)-padding], nil
}
