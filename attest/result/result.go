// Package result is the attestation result (RFC 9334): what a controller says of an enclave whose evidence it has appraised. It is a JWT
// (RFC 7519) with the claims of EAT (RFC 9711) and EAR (draft-ietf-rats-ear-04), signed with ES256, for anybody who trusts the controller's
// key and does not want to appraise evidence himself. It imports neither side of Raypher.
//
//	header   alg ES256, kid the key's thumbprint (RFC 7638), typ eat+jwt
//	iss      the controller
//	sub      spiffe://<trust domain>/host/<name>
//	iat exp  seconds; a result lives for minutes
//	cnf      jwk: the enclave's signing key (RFC 7800), the one that signs visas and tree heads
//	eat_profile, eat_nonce (base64url of the nonce that the evidence answered)
//	ear_verifier_id  developer and build
//	submods  enclave, and instance where the document of its NitroTPM was appraised too; each with ear_status, always affirming:
//	         there are no results about evidence that was refused
//	raypher  tier, epoch and configuration (hex), measurements (name of the golden set), golden_version,
//	         ceiling_version and ceiling_hash (as the enclave says; absent: none)
//
// What a result does not say: that the enclave still runs, and that root of a host of tier tpm has not used the key. It is as
// good as its age.
package result

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/raypher/raypher/journal"
)

// Names and bounds.
const (
	Profile = "tag:ietf.org,2026:rats/ear#04"
	// MaxSize bounds a result, in bytes.
	MaxSize = 8 << 10
	// ClockSkew is how far the time of issue may lie ahead of the time of the check. The end gets no such grace.
	ClockSkew = time.Minute
	// MaxHost bounds the name of a host, in bytes of a-z A-Z 0-9 . - _.
	MaxHost = 128

	mediaType           = "eat+jwt"
	affirming           = "affirming"
	developer           = "https://github.com/raypher/raypher"
	submoduleOfEnclave  = "enclave"
	submoduleOfInstance = "instance"
)

// Errors of results that are not accepted, each wrapped in the reason.
var (
	ErrMalformed = errors.New("attestation result is malformed")
	ErrSignature = errors.New("attestation result is signed by no key that is trusted")
	ErrExpired   = errors.New("attestation result is out of time")
)

// Result is what a controller says of an enclave.
type Result struct {
	Issuer      string // of the result: the controller's name
	Build       string // version of the controller
	TrustDomain string
	Host        string
	Tier        string
	Key         *journal.Key // signs the enclave's visas and tree heads
	Epoch       journal.EpochID
	// Configuration is the hash of the start configuration.
	Configuration journal.Hash
	Measurements  string // name of the golden set that the evidence matches
	GoldenVersion uint64 // of the list that had it
	// Ceiling in force, as the enclave says; version 0: none.
	CeilingVersion uint64
	CeilingHash    string // hex SHA-256
	Instance       bool   // the document of the instance's NitroTPM was appraised too
	Nonce          []byte
	Issued         time.Time // whole seconds, as Expires
	Expires        time.Time
}

// Subject is the host's SPIFFE ID.
func (r *Result) Subject() string { return "spiffe://" + r.TrustDomain + "/host/" + r.Host }

type claims struct {
	Issuer   string               `json:"iss"`
	Subject  string               `json:"sub"`
	Issued   jwt.NumericDate      `json:"iat"`
	Expires  jwt.NumericDate      `json:"exp"`
	Confirm  confirmation         `json:"cnf"`
	Profile  string               `json:"eat_profile"`
	Nonce    string               `json:"eat_nonce"`
	Verifier verifier             `json:"ear_verifier_id"`
	Submods  map[string]appraisal `json:"submods"`
	Raypher  private              `json:"raypher"`
}

type confirmation struct {
	Key jose.JSONWebKey `json:"jwk"`
}

type verifier struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

type appraisal struct {
	Status string `json:"ear_status"`
}

type private struct {
	Tier           string `json:"tier"`
	Epoch          string `json:"epoch"`
	Configuration  string `json:"configuration"`
	Measurements   string `json:"measurements"`
	GoldenVersion  uint64 `json:"golden_version"`
	CeilingVersion uint64 `json:"ceiling_version,omitempty"`
	CeilingHash    string `json:"ceiling_hash,omitempty"`
}

// Sign returns the JWT of a result.
func Sign(r *Result, key *ecdsa.PrivateKey) (string, error) {
	kid, err := thumbprint(&key.PublicKey)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		(&jose.SignerOptions{}).WithType(mediaType))
	if err != nil {
		return "", fmt.Errorf("sign attestation result: %w", err)
	}
	c := claims{
		Issuer: r.Issuer, Subject: r.Subject(), Issued: jwt.NumericDate(r.Issued.Unix()), Expires: jwt.NumericDate(r.Expires.Unix()),
		Confirm: confirmation{jose.JSONWebKey{Key: r.Key.Public()}}, Profile: Profile, Nonce: base64.RawURLEncoding.EncodeToString(r.Nonce),
		Verifier: verifier{developer, r.Build}, Submods: map[string]appraisal{submoduleOfEnclave: {affirming}},
		Raypher: private{
			Tier: r.Tier, Epoch: r.Epoch.String(), Configuration: hex.EncodeToString(r.Configuration[:]), Measurements: r.Measurements,
			GoldenVersion: r.GoldenVersion, CeilingVersion: r.CeilingVersion, CeilingHash: r.CeilingHash,
		},
	}
	if r.Instance {
		c.Submods[submoduleOfInstance] = appraisal{affirming}
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign attestation result: %w", err)
	}
	if len(token) > MaxSize {
		return "", fmt.Errorf("sign attestation result: %d bytes, at most %d", len(token), MaxSize)
	}
	return token, nil
}

// Verify checks a result against the keys of a controller at a time: its form, its signature by one of the keys, its time, and that it
// affirms. Whether it is about the enclave that shows it is the caller's to compare: Key is what the enclave has to prove.
func Verify(token string, keys []*ecdsa.PublicKey, at time.Time) (*Result, error) {
	parsed, err := parse(token)
	if err != nil {
		return nil, err
	}
	payload, err := opened(parsed, parsed.Signatures[0].Protected.KeyID, keys)
	if err != nil {
		return nil, err
	}
	r, err := read(payload)
	if err != nil {
		return nil, err
	}
	switch {
	case at.Before(r.Issued.Add(-ClockSkew)):
		return nil, fmt.Errorf("%w: it begins at %s", ErrExpired, r.Issued.Format(time.RFC3339))
	case !at.Before(r.Expires):
		return nil, fmt.Errorf("%w: it ended at %s", ErrExpired, r.Expires.Format(time.RFC3339))
	}
	return r, nil
}

// Read returns what a result says, without verifying its signature or its time: what it returns is a claim.
func Read(token string) (*Result, error) {
	parsed, err := parse(token)
	if err != nil {
		return nil, err
	}
	return read(parsed.UnsafePayloadWithoutVerification())
}

// parse checks the outer form.
func parse(token string) (*jose.JSONWebSignature, error) {
	if len(token) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(token), MaxSize)
	}
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("%w: no JWT signed with ES256: %v", ErrMalformed, err)
	}
	if parsed.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != mediaType {
		return nil, fmt.Errorf("%w: its type is not %s", ErrMalformed, mediaType)
	}
	return parsed, nil
}

func read(payload []byte) (*Result, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	r, err := c.result()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return r, nil
}

// opened is the payload of a token that one of the keys has signed.
func opened(parsed *jose.JSONWebSignature, kid string, keys []*ecdsa.PublicKey) ([]byte, error) {
	for _, key := range keys {
		known, err := thumbprint(key)
		if err != nil {
			return nil, err
		}
		if known == kid {
			payload, err := parsed.Verify(key)
			if err != nil {
				return nil, fmt.Errorf("%w: %v", ErrSignature, err)
			}
			return payload, nil
		}
	}
	return nil, fmt.Errorf("%w: it names key %.64q", ErrSignature, kid)
}

func (c *claims) result() (*Result, error) {
	r := &Result{
		Issuer: c.Issuer, Build: c.Verifier.Build, Tier: c.Raypher.Tier, Measurements: c.Raypher.Measurements, GoldenVersion: c.Raypher.GoldenVersion,
		CeilingVersion: c.Raypher.CeilingVersion, CeilingHash: c.Raypher.CeilingHash,
		Issued: c.Issued.Time().UTC(), Expires: c.Expires.Time().UTC(),
	}
	if c.Profile != Profile {
		return nil, fmt.Errorf("eat_profile %.80q, wanted %q", c.Profile, Profile)
	}
	if c.Submods[submoduleOfEnclave].Status != affirming {
		return nil, errors.New("it does not affirm the enclave")
	}
	for name, a := range c.Submods {
		if a.Status != affirming {
			return nil, fmt.Errorf("it does not affirm %.80q", name)
		}
	}
	_, r.Instance = c.Submods[submoduleOfInstance]
	domain, ok := strings.CutPrefix(c.Subject, "spiffe://")
	if ok {
		r.TrustDomain, r.Host, ok = strings.Cut(domain, "/host/")
	}
	if !ok || r.TrustDomain == "" || CheckHost(r.Host) != nil {
		return nil, fmt.Errorf("sub %.80q is not spiffe://<trust domain>/host/<name>", c.Subject)
	}
	public, ok := c.Confirm.Key.Key.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("cnf has no public key")
	}
	var err error
	if r.Key, err = journal.NewKey(public); err != nil {
		return nil, fmt.Errorf("cnf: %w", err)
	}
	if r.Nonce, err = base64.RawURLEncoding.Strict().DecodeString(c.Nonce); err != nil {
		return nil, fmt.Errorf("eat_nonce: %w", err)
	}
	epoch, err := hex.DecodeString(c.Raypher.Epoch)
	if err == nil {
		r.Epoch, err = journal.ParseEpochID(epoch)
	}
	if err != nil {
		return nil, fmt.Errorf("epoch: %w", err)
	}
	configuration, err := hex.DecodeString(c.Raypher.Configuration)
	if err != nil || len(configuration) != len(r.Configuration) {
		return nil, errors.New("configuration is not the hex of a SHA-256")
	}
	r.Configuration = journal.Hash(configuration)
	return r, nil
}

// CheckHost refuses what cannot be the name of a host.
func CheckHost(name string) error {
	if name == "" || len(name) > MaxHost || strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_", c)
	}) {
		return fmt.Errorf("name of a host %.140q: use 1 to %d bytes of a-z A-Z 0-9 . - _", name, MaxHost)
	}
	return nil
}

// JWKS is the JSON Web Key Set (RFC 7517) of keys that sign results.
func JWKS(keys []*ecdsa.PublicKey) ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, key := range keys {
		kid, err := thumbprint(key)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"})
	}
	return json.Marshal(set)
}

func thumbprint(key *ecdsa.PublicKey) (string, error) {
	k, err := journal.NewKey(key) // P-256
	if err != nil {
		return "", fmt.Errorf("key of attestation results: %w", err)
	}
	sum, err := (&jose.JSONWebKey{Key: k.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("key of attestation results: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
