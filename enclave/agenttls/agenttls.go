// Package agenttls lets agents authenticate in TLS with keys that lie in the signer: it issues certificates for their SPIFFE IDs
// and signs their handshakes. Package enclave serves it to the parent.
//
// Who an agent is, is what its visa says: a visa of this enclave that has not expired, for an agent that the ceiling grants TLS keys.
// So the right to sign ends with the visa. As with visas, a hostile parent can use the keys of every agent that it has visas for,
// within the rate, and everything that it has signed is in the journal.
//
// The enclave signs nothing that was made elsewhere. It is given the transcript hash of a TLS 1.3 handshake, builds the content of
// CertificateVerify around it, with the context of the client (RFC 8446 section 4.4.3), and hashes that itself: no signature of an agent's
// key can ever be one of a certificate, a server's handshake or anything else. Each agent has one key, which signs handshakes only; the
// authority's key signs certificates only.
package agenttls

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/enclave/ceiling"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/keys"
	"github.com/raypher/raypher/enclave/rate"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// Bounds. A handshake costs a slow TPM a tenth of a second, during which no visa is signed: one at a time is made, and no more than
// these a second. Each is an entry of the journal too.
const (
	Rate      = 20 // certificates and handshakes a second, all agents together
	AgentRate = 5  // of one agent
	burst     = 5  // seconds' worth that may come at once
)

// Errors that callers tell apart; the messages hold the details.
var (
	ErrInvalid = errors.New("invalid request")
	ErrDenied  = errors.New("not granted")
	ErrRate    = errors.New("too many TLS signatures")
)

// Options of the authority.
type Options struct {
	TrustDomain string
	Key         *journal.Key // the enclave's, which signs visas
	Ceiling     *ceiling.Store
	Journal     *sequencer.Sequencer
	Keys        *keys.Keys
	Now         func() time.Time // nil: time.Now
}

// Authority issues and signs for the agents of one enclave. It is safe for concurrent use.
type Authority struct {
	opts       Options
	issuer     string
	rate       *rate.Limiter
	agentRates *rate.Keyed
	turn       chan struct{} // held while the signer works for an agent

	mu   sync.Mutex
	root []byte // DER, once made
}

// New makes an authority; its keys are made when they are first used.
func New(o Options) *Authority {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Authority{
		opts: o, issuer: "spiffe://" + o.TrustDomain,
		rate: rate.New(Rate, burst), agentRates: rate.NewKeyed(AgentRate, burst),
		turn: make(chan struct{}, 1),
	}
}

// agent is who asks, from its visa.
type agent struct {
	*visa.Claims
	key     signer.Signer
	keyHash journal.Hash // of its PKIX DER
	public  *journal.Key
}

// authorise finds out who asks and whether it may, takes one from the rates and waits for the signer. done gives the turn back.
func (a *Authority) authorise(ctx context.Context, encoded []byte) (who *agent, done func(), err error) {
	claims, err := a.claims(encoded)
	if err != nil {
		return nil, nil, err
	}
	now := a.opts.Now()
	if !a.agentRates.Take(claims.Subject, now) {
		return nil, nil, fmt.Errorf("%w: more than %d a second for %s: try again", ErrRate, AgentRate, claims.Subject)
	}
	if !a.rate.Take(now) {
		return nil, nil, fmt.Errorf("%w: more than %d a second on this host: try again", ErrRate, Rate)
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("tls: wait for the signer: %w", ctx.Err())
	}
	done = func() { <-a.turn }
	key, err := a.opts.Keys.Get(ctx, journal.PurposeTLS, claims.Subject)
	if err == nil {
		var public *journal.Key
		if public, err = journal.NewKey(key.Public()); err == nil {
			return &agent{claims, key, sha256.Sum256(public.PKIX()), public}, done, nil
		}
	}
	done()
	return nil, nil, fmt.Errorf("tls: %w", err)
}

// claims verifies a visa and holds it against the ceiling.
func (a *Authority) claims(encoded []byte) (*visa.Claims, error) {
	said, err := visa.Read(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: tls: %w", ErrInvalid, err)
	}
	claims, err := visa.Verify(encoded, visa.Options{
		Keys: []*journal.Key{a.opts.Key}, Now: a.opts.Now(), AllowSoftware: true,
		Audience: said.Audience, // whoever it is meant for, it says who the agent is
	})
	if err != nil {
		return nil, fmt.Errorf("%w: tls: %w", ErrInvalid, err)
	}
	name, found := strings.CutPrefix(claims.Subject, a.issuer+"/ns/"+claims.Namespace+"/agent/")
	if !found || claims.Issuer != a.issuer {
		return nil, fmt.Errorf("%w: tls: the visa is of another trust domain", ErrInvalid)
	}
	current, err := a.opts.Ceiling.Current()
	if err != nil {
		return nil, err
	}
	asserted := claims.Asserted
	if err := current.TLSKeys(ceiling.Request{
		Namespace: claims.Namespace, Name: name, UID: asserted.UID, User: asserted.User, Binary: asserted.BinarySHA256,
	}); err != nil {
		return nil, fmt.Errorf("%w: no grant of ceiling version %d gives agent %s of namespace %s a TLS key: %w", ErrDenied, current.Version, name, claims.Namespace, err)
	}
	return claims, nil
}

// record puts a use on record, which is before it.
func (a *Authority) record(ctx context.Context, who *agent, use string, detail []byte) error {
	payload, err := (&journal.TLSUse{
		Use: use, Subject: who.Subject, AgentID: who.Asserted.AgentID, VisaID: who.ID, KeyHash: who.keyHash, Detail: detail,
	}).Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	entry, err := journal.NewEntry(journal.TypeTLS, a.opts.Now(), payload)
	if err != nil {
		return err
	}
	_, err = a.opts.Journal.Append(ctx, entry)
	return err
}
