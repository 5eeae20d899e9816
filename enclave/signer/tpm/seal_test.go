package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/seal"
)

// approver holds a policy key.
type approver struct {
	key    *ecdsa.PrivateKey
	public []byte
}

func newApprover(t testing.TB) approver {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return approver{key, must(x509.MarshalPKIXPublicKey(&key.PublicKey))(t)}
}

// approve signs the state that the machine is in.
func (a approver) approve(t testing.TB, k *Key, name string, version uint64, numbers ...uint) []byte {
	t.Helper()
	return must(seal.Sign(&seal.Policy{Name: name, Version: version, PCRs: must(k.PCRs(t.Context(), numbers))(t)}, a.key))(t)
}

func extend(t testing.TB, k *Key, pcr uint32, text string) {
	t.Helper()
	direct(t, k, func(tpm transport.TPM) error {
		digest := sha256.Sum256([]byte(text))
		_, err := execute(tpm, tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
		})
		return err
	})
}

// sealed is a TPM with a secret in it that opens.
type sealed struct {
	*testing.T
	k *Key
	approver
	file   *seal.Sealed
	policy []byte
}

var theSecret = []byte("an API key of a provider")

func newSealed(t *testing.T) *sealed {
	s := &sealed{T: t, k: open(t, device(t, blank(t)), t.TempDir(), Configuration{}), approver: newApprover(t)}
	s.policy = s.approve(t, s.k, "api", 3, 7, 16)
	s.file = must(s.k.Seal(t.Context(), theSecret, s.public, "api", 3))(t)
	s.opens(s.file, s.policy)
	return s
}

func (s *sealed) opens(file *seal.Sealed, policies ...[]byte) {
	s.Helper()
	got, _, err := s.k.Unseal(s.Context(), file, policies)
	if err != nil || !bytes.Equal(got, theSecret) {
		s.Errorf("%q, %v", got, err)
	}
}

func (s *sealed) refuses(kind error, words string, file *seal.Sealed, policies ...[]byte) {
	s.Helper()
	got, _, err := s.k.Unseal(s.Context(), file, policies)
	if got != nil || err == nil || kind != nil && !errors.Is(err, kind) || !strings.Contains(err.Error(), words) {
		s.Errorf("%q, %v: want %v with %q", got, err, kind, words)
	}
}

// A machine that booted something else does not open the secret until the operator has signed the new state; the secret is not
// entered again.
func TestSealedToPCRs(t *testing.T) {
	s := newSealed(t)
	extend(t, s.k, 16, "an upgrade")
	now := must(s.k.PCRs(t.Context(), []uint{16}))(t)[0].Value
	s.refuses(seal.ErrPCRs, "PCR 16 is "+fmt.Sprintf("%x", now)+", policy version 3 approves 00", s.file, s.policy)
	next := s.approve(t, s.k, "api", 4, 7, 16)
	s.opens(s.file, s.policy, next)
	s.opens(s.file, next)

	// Sealed again under the newer policy, the older one is over, also in the state that it approved.
	renewed := must(s.k.Seal(t.Context(), theSecret, s.public, "api", 4))(t)
	s.opens(renewed, next)
	stale := s.approve(t, s.k, "api", 3, 7, 16)
	s.refuses(seal.ErrVersion, "version 3, at least 4", renewed, stale)
	s.refuses(seal.ErrPCRs, "--policy", renewed)
}

func TestSealedRefusesForeignPolicies(t *testing.T) {
	s := newSealed(t)
	stranger := newApprover(t)
	s.refuses(seal.ErrSignature, "", s.file, stranger.approve(t, s.k, "api", 9, 7))
	s.refuses(seal.ErrPCRs, `for the secret "other"`, s.file, s.approve(t, s.k, "other", 9, 7))
	s.refuses(seal.ErrMalformed, "raypher seal policy", s.file, []byte("pcr 7"))
	for i := range s.policy {
		bent := bytes.Clone(s.policy)
		bent[i] ^= 1
		if _, err := seal.Open(bent, s.public); err == nil {
			t.Fatalf("byte %d of the policy changed, and it opens", i)
		}
	}
}

// The TPM itself refuses, whatever the program believes: values that are not the PCRs', approvals of another key, name or bank.
func TestTheTPMEnforcesThePolicy(t *testing.T) {
	s := newSealed(t)
	good := must(seal.Open(s.policy, s.public))(t)
	forged := func(change func(p *seal.Policy, file *seal.Sealed)) error {
		p, file := *good, *s.file
		change(&p, &file)
		return s.k.owner.do(t.Context(), func(tpm transport.TPM) error {
			_, err := openSealed(tpm, &file, &p)
			return err
		})
	}
	stranger := newApprover(t)
	sign := func(a approver, digest [32]byte) []byte {
		r, x, err := ecdsa.Sign(rand.Reader, a.key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), x.FillBytes(make([]byte, 32))...)
	}
	for _, c := range []struct {
		name   string
		change func(p *seal.Policy, file *seal.Sealed)
		want   error
	}{
		{"nothing", func(*seal.Policy, *seal.Sealed) {}, nil},
		{"an approved state that this is not", func(p *seal.Policy, _ *seal.Sealed) {
			p.PCRs = []attest.PCR{{Index: 7, Value: [32]byte{1}}}
			p.Signature = sign(s.approver, seal.Approval(seal.Digest(p.PCRs), "api"))
		}, seal.ErrPCRs},
		{"this state, approved by nobody", func(p *seal.Policy, _ *seal.Sealed) { p.PCRs = p.PCRs[:1] }, seal.ErrSignature},
		{"this state, approved by a stranger", func(p *seal.Policy, file *seal.Sealed) {
			file.PolicyKey = stranger.public
			p.Signature = sign(stranger, seal.Approval(seal.Digest(p.PCRs), "api"))
		}, seal.ErrSignature},
		{"this state, approved for another secret", func(p *seal.Policy, file *seal.Sealed) {
			file.Name = "other"
			p.Signature = sign(s.approver, seal.Approval(seal.Digest(p.PCRs), "other"))
		}, seal.ErrSignature},
		{"the SHA-1 bank, approved", func(p *seal.Policy, _ *seal.Sealed) {
			p.Signature = sign(s.approver, seal.Approval(sha1Policy(p.PCRs), "api"))
		}, seal.ErrSignature},
	} {
		if err := forged(c.change); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// No password opens the sealed object, not even the empty one that it was made with; nor does a session without an approval.
func TestOnlyThePolicyOpens(t *testing.T) {
	s := newSealed(t)
	for name, auth := range map[string]tpm2.Session{
		"the empty password": tpm2.PasswordAuth(nil),
		"an empty policy":    tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, func(transport.TPM, tpm2.TPMISHPolicy, tpm2.TPM2BNonce) error { return nil }),
	} {
		direct(t, s.k, func(tpm transport.TPM) error {
			p, err := makePrimary(tpm, tpm2.TPMRHOwner)
			if err != nil {
				return err
			}
			defer flush(tpm, p.handle)
			object, err := execute(tpm, tpm2.Load{
				ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.PasswordAuth(nil)},
				InPrivate:    tpm2.TPM2BPrivate{Buffer: s.file.Private}, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](s.file.Public),
			})
			if err != nil {
				return err
			}
			defer flush(tpm, object.ObjectHandle)
			if _, err := execute(tpm, tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: auth}}); err == nil {
				t.Errorf("%s opens", name)
			}
			return nil
		})
	}
}

// sha1Policy is what the policy of the values would be in the SHA-1 bank.
func sha1Policy(pcrs []attest.PCR) [32]byte {
	selection := seal.Selection(pcrs)
	selection.PCRSelections[0].Hash = tpm2.TPMAlgSHA1
	values := seal.PCRDigest(pcrs)
	h := sha256.New()
	h.Write(make([]byte, 32))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCPolicyPCR)))
	h.Write(tpm2.Marshal(selection))
	h.Write(values[:])
	return [32]byte(h.Sum(nil))
}

func TestTamperedSecretIsRefused(t *testing.T) {
	s := newSealed(t)
	for name, change := range map[string]func(*seal.Sealed){
		"private":    func(f *seal.Sealed) { f.Private[len(f.Private)-1] ^= 1 },
		"public":     func(f *seal.Sealed) { f.Public[len(f.Public)-1] ^= 1 },
		"ciphertext": func(f *seal.Sealed) { f.Ciphertext[0] ^= 1 },
		"version":    func(f *seal.Sealed) { f.MinVersion-- },
		"format":     func(f *seal.Sealed) { f.Format++ },
	} {
		changed := must(seal.Decode(s.file.Encode()))(t)
		change(changed)
		if _, _, err := s.k.Unseal(t.Context(), changed, [][]byte{s.policy}); !errors.Is(err, seal.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	changed := must(seal.Decode(s.file.Encode()))(t)
	changed.Name = "other"
	s.refuses(seal.ErrPCRs, "", changed, s.policy)
	file := s.file.Encode()
	for i := range file {
		bent := bytes.Clone(file)
		bent[i] ^= 1
		if changed, err := seal.Decode(bent); err == nil && i%16 == 0 {
			s.refuses(nil, "", changed, s.policy)
		}
	}
}

func TestAnotherTPMDoesNotOpen(t *testing.T) {
	s := newSealed(t)
	s.k.Close()
	s.k = open(t, device(t, blank(t)), t.TempDir(), Configuration{})
	s.refuses(nil, "sealed in another TPM", s.file, s.approve(t, s.k, "api", 4, 7))
	forced := *s.file
	direct(t, s.k, func(tpm transport.TPM) error { // and if the file says that it was sealed here
		p, err := makePrimary(tpm, tpm2.TPMRHOwner)
		if err == nil {
			forced.Primary = p.name.Buffer
			flush(tpm, p.handle)
		}
		return err
	})
	s.refuses(seal.ErrMalformed, "integrity", &forced, s.approve(t, s.k, "api", 4, 7))
}

// The secret and its data key cross the line to the TPM encrypted only.
func TestSecretsAreNotOnTheLine(t *testing.T) {
	tap := &tap{TPMCloser: device(t, blank(t))}
	k := open(t, tap, t.TempDir(), Configuration{})
	a := newApprover(t)
	file := must(k.Seal(t.Context(), theSecret, a.public, "api", 1))(t)
	var dataKey []byte
	policy := a.approve(t, k, "api", 1, 7)
	direct(t, k, func(tpm transport.TPM) (err error) {
		dataKey, err = openSealed(tpm, file, must(seal.Open(policy, a.public))(t))
		return err
	})
	if len(dataKey) != seal.DataKeySize || bytes.Contains(tap.seen, dataKey) || bytes.Contains(tap.seen, theSecret) {
		t.Error("seen on the line")
	}
}

type tap struct {
	transport.TPMCloser
	seen []byte
}

func (p *tap) Send(command []byte) ([]byte, error) {
	answer, err := p.TPMCloser.Send(command)
	p.seen = append(append(p.seen, command...), answer...)
	return answer, err
}

func TestSealBounds(t *testing.T) {
	a := newApprover(t)
	pcrs := []attest.PCR{{Index: 7}}
	for name, p := range map[string]*seal.Policy{
		"no name": {Version: 1, PCRs: pcrs}, "version 0": {Name: "a", PCRs: pcrs}, "no PCRs": {Name: "a", Version: 1},
		"PCR 24": {Name: "a", Version: 1, PCRs: []attest.PCR{{Index: 24}}}, "twice": {Name: "a", Version: 1, PCRs: append(pcrs, pcrs...)},
		"a long name": {Name: strings.Repeat("n", seal.MaxName+1), Version: 1, PCRs: pcrs},
	} {
		if _, err := seal.Sign(p, a.key); err == nil {
			t.Errorf("%s is signed", name)
		}
	}
	if _, err := seal.Sign(&seal.Policy{Name: "a", Version: 1, PCRs: pcrs}, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)); err == nil {
		t.Error("P-384 signs")
	}
	s := new(seal.Sealed)
	for _, size := range []int{0, seal.MaxSecret + 1} {
		if s.Lock(make([]byte, 32), make([]byte, size)) == nil {
			t.Errorf("%d bytes are sealed", size)
		}
	}
}
