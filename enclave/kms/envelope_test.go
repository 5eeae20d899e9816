package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/kms/kmstest"
)

var oneKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		panic(err)
	}
	return key
})

// fromKMS is an answer of the real KMS, published in the issue 779 of RustCrypto/formats. Nobody has its key.
const fromKMS = "MIAGCSqGSIb3DQEHA6CAMIACAQIxggFrMIIBZwIBAoAgcQ0zX+yOdGR8CYwov05XCbHVlfydT4HojTIC6+f7aZcwPAYJKoZIhvcNAQEHMC+gDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEB" +
	"CDANBglghkgBZQMEAgEFAASCAQApz/6xMi9PgrgYx6rvL+IP5U3G3b914l3A6Z3dxV72IoZN7bi5ILgBHJND5x1WzLCKuiLcNboY3v776NaZcCcXpD/Gtn+0X7BECFTdDkO58xKEP+24A9F8YUp2Aa6W" +
	"DPR6Sf3+KAmaSy9aIiwgqLjT/gQTjYBP9AfRUtpiCZCxLTbARkTt0sArPiRef9+ltIxXKptWfbT8pOacD8orrQVZ433UajAtGOOTiAVAt8PcCBNLpCEisamJoSyPhW5peAkuulELN9bCr+2cvl62+cUs" +
	"ZOoPElV8kIc9b2eCnf15MD38oyX+j99xwCfZB4bpSo9cAuTftyD0kH3tva3ZIhEDMIAGCSqGSIb3DQEHATAdBglghkgBZQMEASoEEDc0PfFHDfYl7rb0v9LxrMOggAQQzHSt9l2XPItyzVHhuSfw8AAA" +
	"AAAAAAAAAAA="

// What the real KMS sends is read, and only its own key is missing.
func TestAnswerOfKMS(t *testing.T) {
	message, err := base64.StdEncoding.DecodeString(fromKMS)
	if err != nil {
		t.Fatal(err)
	}
	e, err := parseEnvelope(message)
	if err != nil || len(e.key) != 256 || len(e.content) != 16 {
		t.Fatalf("%+v, %v", e, err)
	}
	if _, err := e.open(oneKey()); !errors.Is(err, errEnvelope) {
		t.Error(err)
	}
	key := &oneKey().PublicKey
	if shape, own := len(message), len(kmstest.Envelope(key, make([]byte, 15))); shape != own {
		t.Errorf("a message of %d bytes, the tests' own are of %d", shape, own)
	}
}

// OpenSSL's messages, in both lengths' forms, and of every size around a block and around the bounds.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl: apt-get install openssl")
	}
	for _, size := range []int{0, 1, 15, 16, 17, 1023, 4080, 4095, MaxValue} {
		value := make([]byte, size)
		rand.Read(value)
		for name, more := range map[string][]string{"streamed": {"-stream"}, "in one piece": nil} {
			e, err := parseEnvelope(openSSL(t, &oneKey().PublicKey, value, more...))
			if err != nil {
				t.Fatalf("%d bytes, %s: %v", size, name, err)
			}
			if got, err := e.open(oneKey()); err != nil || !bytes.Equal(got, value) {
				t.Errorf("%d bytes, %s: %x, %v", size, name, got, err)
			}
		}
	}
	for name, arguments := range map[string][]string{
		"a recipient that is named by its issuer": {"-aes-256-cbc", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"},
		"PKCS #1 v1.5":    {"-aes-256-cbc", "-keyid"},
		"OAEP with SHA-1": {"-aes-256-cbc", "-keyid", "-keyopt", "rsa_padding_mode:oaep"},
		"AES-128":         {"-aes-128-cbc", "-keyid", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"},
		"a longer value":  nil,
	} {
		value := []byte("value")
		var message []byte
		if arguments == nil {
			message = openSSL(t, &oneKey().PublicKey, make([]byte, MaxValue+aes.BlockSize), "-stream")
		} else {
			message = runOpenSSL(t, &oneKey().PublicKey, value, arguments...)
		}
		if _, err := parseEnvelope(message); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// openSSL encrypts as KMS does.
func openSSL(t *testing.T, key *rsa.PublicKey, value []byte, more ...string) []byte {
	t.Helper()
	return runOpenSSL(t, key, value, append([]string{"-aes-256-cbc", "-keyid", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"}, more...)...)
}

// runOpenSSL runs `openssl cms -encrypt` for a key. It wants a certificate, so the key gets one.
func runOpenSSL(t *testing.T, key *rsa.PublicKey, value []byte, arguments ...string) []byte {
	t.Helper()
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), SubjectKeyId: make([]byte, 20), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, issuer)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "recipient.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	// OpenSSL wants -keyopt after the recipient that it is about.
	var first, last []string
	for i := 0; i < len(arguments); i++ {
		if arguments[i] == "-keyopt" {
			last = append(last, arguments[i], arguments[i+1])
			i++
		} else {
			first = append(first, arguments[i])
		}
	}
	run := exec.Command("openssl", slices.Concat([]string{"cms", "-encrypt", "-binary", "-outform", "DER"}, first, []string{"-recip", file}, last)...)
	run.Stdin = bytes.NewReader(value)
	var stderr bytes.Buffer
	run.Stderr = &stderr
	message, err := run.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return message
}

// Every way in which a key, a padding or a content can be wrong gives one error.
func TestOneErrorForAllThatDependsOnKeys(t *testing.T) {
	key := oneKey()
	other, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		t.Fatal(err)
	}
	e, err := parseEnvelope(kmstest.Envelope(&key.PublicKey, []byte("value")))
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(contentKey []byte) []byte {
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, contentKey, nil)
		if err != nil {
			t.Fatal(err)
		}
		return wrapped
	}
	last := func(change byte) *envelope { // of the plaintext, by way of the vector
		iv := bytes.Clone(e.iv)
		iv[15] ^= 11 ^ change // there are 11 bytes of padding
		return &envelope{e.key, iv, e.content}
	}
	middle := bytes.Clone(e.iv)
	middle[8] ^= 1
	for name, bent := range map[string]struct {
		*envelope
		key *rsa.PrivateKey
	}{
		"another key":                              {e, other},
		"a damaged content's key":                  {&envelope{bytes.Repeat([]byte{1}, 256), e.iv, e.content}, key},
		"a key that is no number of RSA's":         {&envelope{bytes.Repeat([]byte{0xff}, 256), e.iv, e.content}, key},
		"a content's key of 16 bytes":              {&envelope{wrap(make([]byte, 16)), e.iv, e.content}, key},
		"no padding":                               {last(0), key},
		"17 bytes of padding":                      {last(17), key},
		"255 bytes of padding":                     {last(255), key},
		"10 bytes of padding with the wrong value": {last(10), key},
		"one other byte in the padding":            {&envelope{e.key, middle, e.content}, key},
	} {
		if got, err := bent.open(bent.key); err != errEnvelope || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// A random key's padding is good once in 256 times: that must not pass for an answer.
	for range 1500 {
		if got, err := (&envelope{bytes.Repeat([]byte{1}, 256), e.iv, e.content}).open(key); err != errEnvelope || got != nil {
			t.Fatalf("a damaged content's key gives %x, %v", got, err)
		}
	}
	if got, err := e.open(key); err != nil || string(got) != "value" {
		t.Errorf("unchanged: %q, %v", got, err)
	}
}

// Nothing but the one form is read.
func TestMalformedAnswers(t *testing.T) {
	key := &oneKey().PublicKey
	good := kmstest.Envelope(key, []byte("value"))
	replaced := func(old, new string) []byte {
		if bytes.Count(good, []byte(old)) != 1 {
			t.Fatalf("%x stands %d times", old, bytes.Count(good, []byte(old)))
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	cipher := bytes.Index(good, []byte("\x30\x1d\x06")) // contentEncryptionAlgorithm, 31 bytes
	block := make([]byte, 16)
	for _, c := range []struct {
		name    string
		message []byte
		want    string
	}{
		{"nothing", nil, "ContentInfo: expected"},
		{"a byte more", append(bytes.Clone(good), 0), "1 bytes after"},
		{"too long", make([]byte, maxEnvelope+1), "at most 8192"},
		{"signed data", replaced("\x01\x07\x03", "\x01\x07\x02"), "contentType"},
		{"version 0", replaced("\x30\x80\x02\x01\x02\x31", "\x30\x80\x02\x01\x00\x31"), "version: 00 is not"},
		{"version in two bytes", replaced("\x30\x80\x02\x01\x02\x31", "\x30\x80\x02\x02\x02\x31"), "version"},
		{"SHA-1 in OAEP", replaced("\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01", "\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02"), "keyEncryptionAlgorithm"},
		{"AES-128", replaced("\x04\x01\x2a", "\x04\x01\x02"), "cipher"},
		{"a shorter vector", kmstest.Compose(make([]byte, 256), block[:15], block), "initialization vector: 15"},
		{"a shorter key", kmstest.Compose(make([]byte, 255), block, block), "encryptedKey: 255"},
		{"no content", kmstest.Compose(make([]byte, 256), block, nil), "encryptedContent: 0 bytes"},
		{"half a block", kmstest.Compose(make([]byte, 256), block, block[:8]), "encryptedContent: 8 bytes"},
		{"more than KMS encrypts", kmstest.Compose(make([]byte, 256), block, make([]byte, MaxValue+32)), "encryptedContent: 4128 bytes"},
		{"a length that is longer than it need be", replaced("\x02\x01\x02\x80\x20", "\x02\x81\x01\x80\x20"), "longer than it need be"},
		{"a length of 4 octets", replaced("\x04\x82\x01\x00", "\x04\x84\x01\x00"), "a length of 4 octets"},
		{"a string of indefinite length", replaced("\x04\x82\x01\x00", "\x04\x80\x01\x00"), "an indefinite length"},
		{"more beside the vector", slices.Concat(good[:cipher], []byte{0x30, 0x1f}, good[cipher+2:cipher+31], []byte{5, 0}, good[cipher+31:]), "contentEncryptionAlgorithm: 2 bytes more"},
		{"no end", good[:len(good)-1], "no end where it was expected"},
		{"another end", replaced("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"), "no end where it was expected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := parseEnvelope(c.message); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	for n := range len(good) {
		if _, err := parseEnvelope(good[:n]); err == nil {
			t.Fatalf("%d of %d bytes are a message", n, len(good))
		}
	}
}

// Whatever is read has parts of the sizes that decryption relies on, and decryption ends.
func FuzzEnvelope(f *testing.F) {
	message, err := base64.StdEncoding.DecodeString(fromKMS)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Add(kmstest.Compose(make([]byte, 256), make([]byte, 16), make([]byte, 3200)))
	f.Add(kmstest.Compose(make([]byte, 256), make([]byte, 16), make([]byte, 32)))
	f.Fuzz(func(t *testing.T, message []byte) {
		e, err := parseEnvelope(message)
		if err != nil {
			return
		}
		if len(e.key) != 256 || len(e.iv) != 16 || len(e.content) == 0 || len(e.content)%16 != 0 || len(e.content) > MaxValue+16 {
			t.Fatalf("%d, %d, %d bytes", len(e.key), len(e.iv), len(e.content))
		}
		for good := range 2 {
			if value, err := e.decrypt(new([32]byte), good); err == nil && (good == 0 || len(value) > MaxValue+15) {
				t.Fatalf("a value of %d bytes, good %d", len(value), good)
			}
		}
	})
}
