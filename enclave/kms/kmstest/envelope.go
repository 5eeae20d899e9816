package kmstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Envelope encrypts a value to a key in the form in which KMS answers: a CMS EnvelopedData (RFC 5652) with indefinite lengths.
func Envelope(key *rsa.PublicKey, value []byte) []byte {
	contentKey, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	rand.Read(contentKey)
	rand.Read(iv)
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil)
	if err != nil {
		panic(err) // a key of 2,048 bits has room for 32 bytes
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		panic(err)
	}
	padding := aes.BlockSize - len(value)%aes.BlockSize
	content := append(slices.Clone(value), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)
	return Compose(encrypted, iv, content)
}

// Compose puts the parts of an EnvelopedData together, the content in strings of 1,024 bytes.
func Compose(encryptedKey, iv, content []byte) []byte {
	name := sha256.Sum256(encryptedKey) // of a key; KMS writes 32 bytes too
	var parts []byte
	for part := range slices.Chunk(content, 1024) {
		parts = append(parts, Element(0x04, part)...)
	}
	return stream("30",
		oid("2a864886f70d010703"),
		stream("a0", stream("30",
			Element(0x02, []byte{2}),
			Element(0x31, Element(0x30, slices.Concat(
				Element(0x02, []byte{2}),
				Element(0x80, name[:]),
				Element(0x30, slices.Concat(
					oid("2a864886f70d010107"),
					Element(0x30, slices.Concat(
						Element(0xa0, sha256Algorithm),
						Element(0xa1, Element(0x30, slices.Concat(oid("2a864886f70d010108"), sha256Algorithm))),
					)),
				)),
				Element(0x04, encryptedKey),
			))),
			stream("30",
				oid("2a864886f70d010701"),
				Element(0x30, slices.Concat(oid("60864801650304012a"), Element(0x04, iv))),
				stream("a0", parts),
			),
		)),
	)
}

var sha256Algorithm = Element(0x30, slices.Concat(oid("608648016503040201"), Element(0x05, nil)))

// Element is a BER element with a definite length.
func Element(tag byte, contents []byte) []byte {
	length := []byte{byte(len(contents))}
	switch {
	case len(contents) > 0xff:
		length = []byte{0x82, byte(len(contents) >> 8), byte(len(contents))}
	case len(contents) > 0x7f:
		length = []byte{0x81, byte(len(contents))}
	}
	return slices.Concat([]byte{tag}, length, contents)
}

// stream is a BER element with an indefinite length.
func stream(tag string, contents ...[]byte) []byte {
	return slices.Concat(unhex(tag), []byte{0x80}, slices.Concat(contents...), []byte{0, 0})
}

func oid(digits string) []byte { return Element(0x06, unhex(digits)) }

func unhex(digits string) []byte {
	raw, err := hex.DecodeString(digits)
	if err != nil {
		panic(fmt.Sprint(digits, err))
	}
	return raw
}
