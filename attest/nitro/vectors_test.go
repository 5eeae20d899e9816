package nitro_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hf/nitrite"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

// vectors are real documents, kept beside the repository (docs/attest.md).
const vectors = "../../../shared/vectors/nitro"

// vector is one entry of their manifest.json.
type vector struct {
	File                                string
	VerifyAt, NotBefore, NotAfter       time.Time
	ModuleID, SHA256, MapEncoding       string
	Debug                               bool
	PCRs                                map[string]string
	PublicKeyLen, UserDataLen, NonceLen int
	document                            []byte
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectors, "manifest.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no real documents here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if all[i].document, err = os.ReadFile(filepath.Join(vectors, all[i].File)); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(all[i].document); hex.EncodeToString(sum[:]) != all[i].SHA256 {
			t.Fatalf("%s: not the file of the manifest", all[i].File)
		}
	}
	return all
}

func newVerifier(t testing.TB, c nitro.Config) *nitro.Verifier {
	t.Helper()
	v, err := nitro.NewVerifier(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// refuses wants a refusal by one check.
func refuses(t *testing.T, err error, want attest.Check) {
	t.Helper()
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) || refusal.Check != want {
		t.Errorf("got %v, want a refusal by the check %q", err, want)
	}
}

func TestRealDocuments(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.File, func(t *testing.T) {
			verifier := newVerifier(t, nitro.Config{})
			expected := nitro.Expected{At: v.VerifyAt, AllowDebug: v.Debug, PCRs: map[int]nitro.PCR{}}
			for name, value := range v.PCRs {
				index, _ := strconv.Atoi(name)
				b, err := hex.DecodeString(value)
				if err != nil {
					t.Fatal(err)
				}
				expected.PCRs[index] = nitro.PCR(b)
			}
			d, err := verifier.Verify(v.document, expected)
			if err != nil {
				t.Fatal(err)
			}
			if d.ModuleID != v.ModuleID || !d.Timestamp.Equal(v.VerifyAt) || d.Debug != v.Debug || !d.NotAfter.Equal(v.NotAfter) ||
				len(d.PublicKey) != v.PublicKeyLen || len(d.UserData) != v.UserDataLen || len(d.Nonce) != v.NonceLen || len(d.PCRs) != 16 {
				t.Errorf("got %+v", d)
			}
			for _, c := range []struct {
				name   string
				change func(*nitro.Expected)
				want   attest.Check
			}{
				{"at the end of the leaf", func(e *nitro.Expected) { e.At, e.MaxAge = v.NotAfter, 3*time.Hour }, ""},
				{"a second after the leaf ends", func(e *nitro.Expected) { e.At, e.MaxAge = v.NotAfter.Add(time.Second), 24*time.Hour }, nitro.CheckValidity},
				{"a second before the leaf begins", func(e *nitro.Expected) { e.At = v.NotBefore.Add(-time.Second) }, nitro.CheckValidity},
				{"today", func(e *nitro.Expected) { e.At = time.Time{} }, nitro.CheckValidity},
				{"six minutes old", func(e *nitro.Expected) { e.At = v.VerifyAt.Add(6 * time.Minute) }, nitro.CheckFreshness},
				{"another nonce", func(e *nitro.Expected) { e.Nonce = []byte("another") }, nitro.CheckNonce},
				{"its own nonce", func(e *nitro.Expected) { e.Nonce = d.Nonce }, ""},
				{"another PCR2", func(e *nitro.Expected) { e.PCRs = map[int]nitro.PCR{2: {1}} }, nitro.CheckPCR},
				{"a PCR that is not locked", func(e *nitro.Expected) { e.PCRs = map[int]nitro.PCR{16: {}} }, nitro.CheckPCR},
				{"debug not allowed", func(e *nitro.Expected) { e.AllowDebug = false }, map[bool]attest.Check{true: nitro.CheckDebug}[v.Debug]},
			} {
				e := expected
				c.change(&e)
				for _, fresh := range []bool{true, false} { // with and without the chain in the cache
					asked := verifier
					if fresh {
						asked = newVerifier(t, nitro.Config{})
					}
					_, err := asked.Verify(v.document, e)
					if c.want == "" && err != nil {
						t.Errorf("%s: %v", c.name, err)
					}
					if c.want != "" {
						t.Run(c.name, func(t *testing.T) { refuses(t, err, c.want) })
					}
				}
			}
			t.Run("a root of our own", func(t *testing.T) {
				own := nitrotest.New(t, v.VerifyAt)
				_, err := newVerifier(t, nitro.Config{Roots: []*x509.Certificate{own.Root()}}).Verify(v.document, expected)
				refuses(t, err, nitro.CheckRoot)
			})
		})
	}
}

// The pinned fingerprint is that of the root which the second implementation carries, and of the vectors' root.
func TestRootFingerprint(t *testing.T) {
	roots := map[string][]byte{"nitrite": []byte(nitrite.DefaultCARoots)}
	if text, err := os.ReadFile(filepath.Join(vectors, "aws-nitro-root-g1.pem")); err == nil {
		roots["vectors"] = text
	}
	for name, text := range roots {
		block, _ := pem.Decode(text)
		if block == nil || sha256.Sum256(block.Bytes) != nitro.AWSRootFingerprint {
			t.Errorf("%s: another root", name)
		}
	}
}

// No single bit of a document can change: real ones, and one of our own.
func TestEveryBit(t *testing.T) {
	pki := nitrotest.New(t, time.Now())
	document := pki.Draft(pki.Leaf(t)).Seal(t)
	t.Run("own", func(t *testing.T) {
		flipBits(t, document, nitro.Config{Roots: []*x509.Certificate{pki.Root()}}, nitro.Expected{At: pki.At}, 53)
	})
	t.Run("real", func(t *testing.T) {
		for _, v := range readVectors(t) {
			step := 331
			if v.MapEncoding == "indefinite" && !testing.Short() {
				step = 1 // every bit of this one
			}
			flipBits(t, v.document, nitro.Config{}, nitro.Expected{At: v.VerifyAt, AllowDebug: true, MaxAge: 3 * time.Hour}, step)
		}
	})
}

// flipBits verifies the document as often as it has bits, or with each step-th flipped, on all processors.
func flipBits(t *testing.T, document []byte, c nitro.Config, e nitro.Expected, step int) {
	t.Helper()
	verifier := newVerifier(t, c)
	if _, err := verifier.Verify(document, e); err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			flipped := bytes.Clone(document)
			for bit := worker * step; bit < 8*len(document); bit += step * runtime.GOMAXPROCS(0) {
				flipped[bit/8] ^= 1 << (bit % 8)
				_, err := verifier.Verify(flipped, e)
				var refusal *attest.Refusal
				if !errors.As(err, &refusal) {
					t.Errorf("byte %d, bit %d: got %v", bit/8, bit%8, err)
				} else if refusal.Check == nitro.CheckSecondOpinion {
					t.Errorf("byte %d, bit %d: only the second opinion refused: %v", bit/8, bit%8, err)
				}
				flipped[bit/8] ^= 1 << (bit % 8)
			}
		})
	}
	workers.Wait()
	if n := verifier.ChainCount(); n != 1 {
		t.Errorf("%d chains in the cache", n)
	}
}

// The document in testdata was made once and is never made again: what verified once verifies for ever, at its time.
func TestStoredDocument(t *testing.T) {
	document, err := os.ReadFile("testdata/own.cbor")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/own-root.pem")
	if err != nil {
		t.Fatal(err)
	}
	roots, err := nitro.ParseRoots(text)
	if err != nil {
		t.Fatal(err)
	}
	expected := nitro.Expected{At: storedAt, Nonce: []byte("nonce"), PCRs: map[int]nitro.PCR{0: nitro.PCR(nitrotest.PCR("image"))}}
	d, err := newVerifier(t, nitro.Config{Roots: roots}).Verify(document, expected)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s %s %s %q %v %q", d.ModuleID, d.InstanceID(), d.Timestamp, d.PublicKey, d.UserData == nil, d.Nonce)
	if want := `i-0123456789abcdef0-enc0123456789abcdef i-0123456789abcdef0 2026-11-01 12:00:00 +0000 UTC "public key" true "nonce"`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	_, err = newVerifier(t, nitro.Config{}).Verify(document, expected)
	refuses(t, err, nitro.CheckRoot)
}

var storedAt = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
