package attestation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// findings are what evidence proves, before it is held against a host.
type findings struct {
	*evidence.Attested
	identity  string // to which a host is bound by it
	instance  bool   // the NitroTPM's document was appraised
	callerKey startconf.KeyHash
	golden    uint64 // version of the list
}

// appraise judges evidence and configuration. It uses no database: list is that of the moment.
func (s *Service) appraise(request *controllerv1.AttestRequest, p *peer.Peer, list *golden.List) (*findings, error) {
	f, err := s.evidence(request, list)
	if err != nil {
		return nil, err
	}
	if f.Key.ID() != [sha256.Size]byte(p.Key) {
		return nil, attest.Refuse(CheckCaller, "the evidence is about key %s, the connection is by %s", startconf.KeyHash(f.Key.ID()), p.Key)
	}
	if !bytes.Equal(f.Nonce, request.GetNonce()) { // the verifiers have looked; this is what they were told
		return nil, attest.Refuse(CheckNonce, "the evidence is over another one")
	}
	if f.callerKey, err = s.configuration(request.GetConfiguration(), f.ConfigurationHash); err != nil {
		return nil, err
	}
	if f.Tier == journal.TierNitro { // no id of a machine outlives it: the parent's key, which the document's configuration names, does
		f.identity = "nitro caller " + f.callerKey.String()
	}
	return f, nil
}

func (s *Service) evidence(request *controllerv1.AttestRequest, list *golden.List) (*findings, error) {
	switch tier := request.GetTier(); tier {
	case journal.TierNitro:
		return s.nitroEvidence(request, list)
	case journal.TierTPM:
		return s.tpmEvidence(request, list)
	case journal.TierSoftware:
		return s.softwareEvidence(request)
	default:
		return nil, attest.Refuse(CheckTier, "%.32q is none: nitro or tpm", tier)
	}
}

func (s *Service) nitroEvidence(request *controllerv1.AttestRequest, list *golden.List) (*findings, error) {
	if list == nil {
		return nil, ErrNoReferences
	}
	now := s.Now()
	document, err := s.nitro.Verify(request.GetDocument(), nitro.Expected{At: now, MaxAge: MaxAge, Nonce: request.GetNonce(), Golden: list})
	if err != nil {
		return nil, err
	}
	attested, err := document.Attested()
	if err != nil {
		return nil, err
	}
	f := &findings{Attested: attested, golden: list.Version}
	if raw := request.GetNitroTpmDocument(); len(raw) > 0 {
		if err := s.instance(raw, document, request.GetNonce(), list); err != nil {
			return nil, err
		}
		f.instance = true
	}
	return f, nil
}

func (s *Service) tpmEvidence(request *controllerv1.AttestRequest, list *golden.List) (*findings, error) {
	if s.TPMRoots == nil {
		return nil, attest.Refuse(tpm.CheckEndorsement, "this controller was started without --tpm-roots: it trusts no TPM")
	}
	if list == nil {
		return nil, ErrNoReferences
	}
	o := tpm.Options{Roots: s.TPMRoots, Now: s.Now(), Nonce: request.GetNonce(), MaxAge: MaxAge, Activators: s.Keys.Public(), Golden: list}
	bundle, err := tpm.Decode(request.GetDocument())
	if err != nil {
		return nil, err
	}
	if record := request.GetActivation(); len(record) > 0 {
		name, err := s.activated(record, bundle)
		if err != nil {
			return nil, err
		}
		o.ActivatedAKs = [][]byte{name}
	}
	r, err := tpm.Verify(request.GetDocument(), o)
	if err != nil {
		return nil, err
	}
	return &findings{
		Attested: &evidence.Attested{
			Tier: journal.TierTPM, Key: r.Key, Epoch: r.Epoch, ConfigurationHash: r.Configuration, Nonce: r.Nonce, Time: r.Time.UnixNano(), Golden: r.Golden.Name,
		},
		golden:   list.Version,
		identity: tpmIdentity(bundle.EKCertificate, r.AKName), // tied by a record of this controller, in the bundle or beside it
	}, nil
}

// activated is the name of the AK that a record of this controller ties to the EK certificate of a bundle. What a TPM has signed holds the
// record that the enclave had then, or none; this one came beside it.
func (s *Service) activated(record []byte, bundle *tpm.Bundle) ([]byte, error) {
	a, signer, err := tpm.ParseActivation(record)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.Keys.Public(), func(key *ecdsa.PublicKey) bool { return key.Equal(signer) }) {
		return nil, attest.Refuse(tpm.CheckActivation, "the record is not signed by this controller")
	}
	if a.Certificate != sha256.Sum256(bundle.EKCertificate) {
		return nil, attest.Refuse(tpm.CheckActivation, "the record is about another EK")
	}
	return a.AKName, nil
}

// akInIdentity stands between what names a TPM and what names its AK.
const akInIdentity = " ak "

// tpmIdentity names a TPM: its EK certificate and the name of its AK.
func tpmIdentity(certificate, akName []byte) string {
	return fmt.Sprintf("tpm ek sha256:%x%s%x", sha256.Sum256(certificate), akInIdentity, akName)
}

func (s *Service) softwareEvidence(request *controllerv1.AttestRequest) (*findings, error) {
	if !s.AllowSoftware {
		return nil, attest.Refuse(CheckTier, "software proves nothing about the place of the key, and this controller was started without --allow-software")
	}
	statement, key, err := journal.VerifyStatement(request.GetDocument())
	if err != nil {
		return nil, attest.Refuse("statement", "%w", err)
	}
	if !bytes.Equal(statement.Nonce, request.GetNonce()) {
		return nil, attest.Refuse(CheckNonce, "the statement is over another one")
	}
	if age := s.Now().Sub(time.Unix(0, statement.Time)); age > MaxAge || age < -MaxAge {
		return nil, attest.Refuse(tpm.CheckFreshness, "the enclave's clock says %s", time.Unix(0, statement.Time).UTC().Format(time.RFC3339))
	}
	return &findings{
		Attested: &evidence.Attested{
			Tier: journal.TierSoftware, Key: key, Epoch: statement.Epoch, ConfigurationHash: statement.ConfigurationHash, Nonce: statement.Nonce, Time: statement.Time,
		},
		identity: "software " + startconf.KeyHash(key.ID()).String(),
	}, nil
}

// configuration judges the text of a start configuration of which evidence names the hash, and returns its caller key.
func (s *Service) configuration(text []byte, hash journal.Hash) (startconf.KeyHash, error) {
	var none startconf.KeyHash
	c, err := startconf.Parse("configuration", text)
	if err != nil {
		return none, attest.Refuse(CheckConfiguration, "%w", err)
	}
	if got := c.Hash(); got != hash {
		return none, attest.Refuse(CheckConfiguration, "the evidence names sha256:%x, the text that was sent is sha256:%x", hash[:], got[:])
	}
	if len(c.CallerKeys) != 1 {
		return none, attest.Refuse(CheckConfiguration, "it names %d caller keys: an enclave of a fleet has one, its host's", len(c.CallerKeys))
	}
	if c.TrustDomain != s.TrustDomain {
		return none, attest.Refuse(CheckConfiguration, "its trust domain is %s, this controller's %s", c.TrustDomain, s.TrustDomain)
	}
	for _, key := range c.OperatorKeys {
		if !slices.ContainsFunc(s.CeilingKeys, func(known []byte) bool { return bytes.Equal(known, key) }) {
			return none, attest.Refuse(CheckConfiguration, "its operator_key sha256:%s is none of --ceiling-key: whoever holds it could let this enclave do anything",
				sum(key))
		}
	}
	for _, root := range c.NitroRoots {
		if !slices.ContainsFunc(s.NitroRoots, func(known *x509.Certificate) bool { return sha256.Sum256(known.Raw) == root }) {
			return none, attest.Refuse(CheckConfiguration, "its nitro_root %s is none of --nitro-root", root)
		}
	}
	if err := s.onlyThisController(c); err != nil {
		return none, err
	}
	return c.CallerKeys[0], s.listed(c)
}

// listed refuses a configuration that is none of a list, where there is one. It names what is different in the one that is most like it.
func (s *Service) listed(c *startconf.Configuration) error {
	var least []string
	for i, listed := range s.Configurations {
		differences := listed.Differences(c)
		if len(differences) == 0 {
			return nil
		}
		if i == 0 || len(differences) < len(least) {
			least = differences
		}
	}
	if len(least) > 0 {
		return attest.Refuse(CheckConfiguration, "it is none of --configuration: %s differ", strings.Join(least, ", "))
	}
	return nil
}

// onlyThisController refuses a configuration by which the enclave would believe another controller too: that one could say for ever that the
// enclave is attested, and set its counter of leases back, while this one hands it secrets.
func (s *Service) onlyThisController(c *startconf.Configuration) error {
	for _, key := range c.ControllerKeys {
		if !slices.Contains(s.ControllerKeys, key) {
			return attest.Refuse(CheckConfiguration, "its controller_key %s is not this controller's: the one of --tls-key, or --other-tls-key while keys change", key)
		}
	}
	for _, key := range c.ResultKeys {
		if !slices.ContainsFunc(s.Keys.Public(), func(known *ecdsa.PublicKey) bool {
			parsed, err := journal.ParseKey(key)
			return err == nil && parsed.Public().Equal(known)
		}) {
			return attest.Refuse(CheckConfiguration, "its controller_result_key sha256:%s is not this controller's: the one of --signing-key, or --verify-key while keys change", sum(key))
		}
	}
	return nil
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
