// Package mint grants visas: it checks ceiling ⊇ policy ⊇ manifest ⊇ intent, puts the claims into the journal and returns
// the visa once the journal's store has synced it. Everything in a request is hostile until it was checked here; what only
// the parent can know (pid, user, program) is marked in the claims as asserted by it.
package mint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/enclave/ceiling"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/keys"
	"github.com/raypher/raypher/enclave/rate"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

// Bounds of a request, in bytes.
const (
	MaxPolicy = 256 << 10 // of policy, manifest and intent each
	MaxName   = 128       // of namespace and agent name
	MaxText   = visa.MaxText
	MaxHome   = 4096
)

// agentBurst is how many seconds' worth of visas one subject may take at once.
const agentBurst = 5

// Errors that callers tell apart; the messages hold the details.
var (
	ErrInvalid = errors.New("invalid request")
	ErrDenied  = errors.New("not granted")
	ErrRate    = errors.New("too many visas")
	// ErrUnattested: the ceiling asks for a valid attestation result, and there is none. The message says since when.
	ErrUnattested = errors.New("this enclave is not attested, and its ceiling requires it")
)

// errUndecided: the narrowing has to be done first.
var errUndecided = errors.New("not decided yet")

// Attested says for how long the attestation result in force holds yet, or why there is none.
type Attested func() (time.Duration, error)

// Options of a mint.
type Options struct {
	Configuration *startconf.Configuration
	Ceiling       *ceiling.Store
	Journal       *sequencer.Sequencer
	Keys          *keys.Keys // of namespaces
	Epoch         journal.EpochID
	Tier          string
	Attested      Attested         // nil: no controller is configured
	Runs          Runs             // nil: no run makes calls of models
	Services      func() *Services // that cost money, now; nil, or a nil result: no budget is kept
	Now           func() time.Time // nil: time.Now
}

// Runs keeps by which placeholder keys runs make calls of models.
type Runs interface {
	// Admit says why a visa with a handle for an agent cannot be granted; its error wraps ErrDenied or ErrRate.
	Admit(handle journal.Hash, agent string) error
	// Granted is told of each visa with a handle that is on record.
	Granted(*visa.Claims)
}

// Mint grants visas. It is safe for concurrent use.
type Mint struct {
	opts       Options
	confHash   journal.Hash
	issuer     string
	decisions  *decisions
	rate       *rate.Limiter
	agentRates *rate.Keyed
}

// New makes a mint.
func New(opts Options) *Mint {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c := opts.Configuration
	return &Mint{
		opts: opts, confHash: c.Hash(), issuer: "spiffe://" + c.TrustDomain,
		decisions:  newDecisions(),
		rate:       rate.New(float64(c.Rate), 1),
		agentRates: rate.NewKeyed(float64(c.AgentRate), agentBurst),
	}
}

// Mint answers one request. Errors wrap ErrInvalid, ErrDenied, ErrRate, ErrUnattested, ceiling.ErrNone or those of package sequencer.
func (m *Mint) Mint(ctx context.Context, r *enclavev1.MintRequest) (*enclavev1.MintReply, error) {
	d, err := m.draft(r, false)
	if err != nil {
		return nil, err
	}
	if d.ownKey && d.namespace == nil {
		key, err := m.opts.Keys.Get(ctx, journal.PurposeNamespace, d.claims.Namespace)
		if err != nil {
			return nil, fmt.Errorf("mint: the ceiling gives namespace %s a key of its own: %w", d.claims.Namespace, err)
		}
		d.namespace = &sequencer.Namespace{Name: d.claims.Namespace, Key: key}
	}
	placed, err := m.opts.Journal.AppendFor(ctx, d.namespace, d.entry)
	if err != nil {
		return nil, err
	}
	return d.visa(placed)
}

// Ticket is a visa that is on its way into the journal.
type Ticket struct {
	draft   *draft
	pending *sequencer.Pending
}

// Visa is the outcome, once the ticket was handed back.
func (t *Ticket) Visa() (*enclavev1.MintReply, error) {
	placed, err := t.pending.Placed()
	if err != nil {
		return nil, err
	}
	return t.draft.visa(placed)
}

// TryMint is Mint for a caller that does not want to wait: then is called with a ticket once the outcome is known. It must
// not block nor call the mint. taken is false, and then is not called, when the answer needs time: a narrowing that was not
// decided before, a namespace's key that was not used before, or a full journal. An error means that the request was answered by it.
func (m *Mint) TryMint(r *enclavev1.MintRequest, then func(*Ticket)) (taken bool, err error) {
	d, err := m.draft(r, true)
	if errors.Is(err, errUndecided) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return m.opts.Journal.TryAppendFor(d.namespace, func(p *sequencer.Pending) { then(&Ticket{d, p}) }, d.entry)
}

// draft is a visa without its proof.
type draft struct {
	entry    []byte
	claims   *visa.Claims
	decision *decision
	lifetime uint32 // seconds
	runs     Runs   // are told when it is on record

	ownKey    bool                 // its namespace has a key of its own
	namespace *sequencer.Namespace // that key, if it was used before
}

// draft checks a request and writes the entry that would grant it. quick: only if the narrowing was decided before, else
// errUndecided.
func (m *Mint) draft(r *enclavev1.MintRequest, quick bool) (*draft, error) {
	if err := check(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	current, err := m.opts.Ceiling.Current()
	if err != nil {
		return nil, err
	}
	attested, err := m.attested(current)
	if err != nil {
		return nil, err
	}
	var services *Services
	if m.opts.Services != nil {
		services = m.opts.Services()
	}
	key := decisionKey(current, services, r)
	d := m.decisions.get(key)
	ownKey, own := m.ownKey(current, namespace(r))
	if quick && (d == nil || ownKey && own == nil) {
		return nil, errUndecided
	}
	now, subject := m.opts.Now(), m.subject(r)
	if err := m.admit(subject, now); err != nil {
		return nil, err
	}
	if d == nil {
		if d, err = decide(current, services, r); err != nil {
			return nil, err
		}
		m.decisions.put(key, d)
	}
	if err := m.admitHandle(r); err != nil {
		return nil, err
	}
	lifetime, err := m.lifetime(d, r.GetTtlSeconds())
	if err != nil {
		return nil, err
	}
	lifetime = min(lifetime, attested)
	claims := m.claims(r, current, d, subject, now, lifetime)
	payload, err := claims.Encode()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	entry, err := journal.NewEntry(journal.TypeVisa, now, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &draft{entry: entry, claims: claims, decision: d, lifetime: lifetime, runs: m.opts.Runs, ownKey: ownKey, namespace: own}, nil
}

// attested is how many seconds a visa may live, where the ceiling requires that a controller vouches for this enclave: no longer than
// the controller does.
func (m *Mint) attested(c *ceiling.Ceiling) (uint32, error) {
	if !c.RequireAttestation {
		return math.MaxUint32, nil
	}
	if m.opts.Attested == nil {
		return 0, fmt.Errorf("%w: no controller stands in its start configuration", ErrUnattested)
	}
	left, err := m.opts.Attested()
	if err == nil && left < time.Second {
		err = errors.New("the attestation result expires within a second")
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnattested, err)
	}
	return uint32(min(left/time.Second, math.MaxUint32)), nil
}

// ownKey says whether the ceiling gives the namespace a key of its own, and which, if it was used before.
func (m *Mint) ownKey(c *ceiling.Ceiling, namespace string) (bool, *sequencer.Namespace) {
	if !c.OwnKey(namespace) {
		return false, nil
	}
	if key := m.opts.Keys.Ready(journal.PurposeNamespace, namespace); key != nil {
		return true, &sequencer.Namespace{Name: namespace, Key: key}
	}
	return true, nil
}

// admit takes one visa from the rates. The agent's own comes first: what it is refused for takes nothing from the others.
func (m *Mint) admit(subject string, now time.Time) error {
	if !m.agentRates.Take(subject, now) {
		return fmt.Errorf("%w: more than %d a second for %s: try again", ErrRate, m.opts.Configuration.AgentRate, subject)
	}
	if !m.rate.Take(now) {
		return fmt.Errorf("%w: more than %d a second on this host: try again", ErrRate, m.opts.Configuration.Rate)
	}
	return nil
}

// admitHandle looks at the placeholder key of the run.
func (m *Mint) admitHandle(r *enclavev1.MintRequest) error {
	if m.opts.Runs == nil || len(r.GetHandleHash()) == 0 {
		return nil
	}
	return m.opts.Runs.Admit(journal.Hash(r.GetHandleHash()), r.GetAsserted().GetAgentId())
}

// visa puts the proof to the entry.
func (d *draft) visa(placed *sequencer.Placed) (*enclavev1.MintReply, error) {
	receipt := placed.Receipt(0)
	encoded, err := visa.EncodeNamespaced(d.entry, &receipt, placed.NamespaceHead)
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	if d.runs != nil && len(d.claims.Handle) > 0 {
		d.runs.Granted(d.claims)
	}
	return &enclavev1.MintReply{
		Visa: encoded, Permit: d.decision.canonical, LifetimeSeconds: d.lifetime, ExpiresUnix: d.claims.ExpiresAt, PolicyHash: d.claims.PolicyHash,
	}, nil
}

// check holds the bounds of everything that is not checked where it is used.
func check(r *enclavev1.MintRequest) error {
	a := r.GetAsserted()
	for _, c := range []struct {
		what      string
		size, max int
	}{
		{"policy", len(r.GetPolicy()), MaxPolicy}, {"manifest", len(r.GetManifest()), MaxPolicy}, {"intent", len(r.GetIntent()), MaxPolicy},
		{"audience", len(r.GetAudience()), MaxText}, {"agent id", len(a.GetAgentId()), MaxText}, {"user", len(a.GetUser()), MaxText},
		{"home", len(a.GetHome()), MaxHome}, {"host", len(a.GetHost()), MaxText}, {"cgroup", len(a.GetCgroup()), MaxText},
	} {
		if c.size > c.max {
			return fmt.Errorf("%s has %d bytes, at most %d", c.what, c.size, c.max)
		}
	}
	if len(r.GetPolicy()) == 0 || a.GetAgentId() == "" {
		return errors.New("policy or agent id is missing")
	}
	if err := segment("namespace", namespace(r)); err != nil {
		return err
	}
	if err := segment("agent name", r.GetName()); err != nil {
		return err
	}
	if n := len(r.GetNonce()); n != 0 && (n < visa.MinNonceSize || n > visa.MaxNonceSize) {
		return fmt.Errorf("nonce has %d bytes, use %d to %d", n, visa.MinNonceSize, visa.MaxNonceSize)
	}
	if n := len(r.GetPolicySourceHash()); n != 0 && n != 32 {
		return fmt.Errorf("policy source hash has %d bytes, use 32", n)
	}
	if n := len(a.GetBinarySha256()); n != 0 && n != 32 {
		return fmt.Errorf("program hash has %d bytes, use 32", n)
	}
	if n := len(r.GetHandleHash()); n != 0 && n != 32 {
		return fmt.Errorf("hash of the run's handle has %d bytes, use 32", n)
	}
	if b := r.GetRunBudget(); b > journal.MaxSpending {
		return fmt.Errorf("budget of the run: %d micro-dollars, at most %d", b, uint64(journal.MaxSpending))
	}
	if home := a.GetHome(); home != "" && !strings.HasPrefix(home, "/") {
		return fmt.Errorf("home %.60q is not an absolute path", home)
	}
	return nil
}

// segment checks a path segment of a SPIFFE ID (SPIFFE ID standard, section 2.2).
func segment(what, s string) error {
	if s == "" || s == "." || s == ".." || len(s) > MaxName {
		return fmt.Errorf("%s %.140q: use 1 to %d of a-z A-Z 0-9 . - _", what, s, MaxName)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("%s %.140q: use 1 to %d of a-z A-Z 0-9 . - _", what, s, MaxName)
		}
	}
	return nil
}

func namespace(r *enclavev1.MintRequest) string {
	if r.GetNamespace() == "" {
		return policy.DefaultNamespace
	}
	return r.GetNamespace()
}

func (m *Mint) subject(r *enclavev1.MintRequest) string {
	return m.issuer + "/ns/" + namespace(r) + "/agent/" + r.GetName()
}

// lifetime is what was asked for, or the most that configuration and grant allow. More than that is an error.
func (m *Mint) lifetime(d *decision, asked uint32) (uint32, error) {
	most := m.opts.Configuration.TTLSeconds
	if d.maxTTL > 0 {
		most = min(most, d.maxTTL)
	}
	if asked > most {
		return 0, fmt.Errorf("%w: ttl_seconds: %d asked, at most %d", ErrDenied, asked, most)
	}
	if asked == 0 {
		return most, nil
	}
	return asked, nil
}

func (m *Mint) claims(r *enclavev1.MintRequest, c *ceiling.Ceiling, d *decision, subject string, now time.Time, lifetime uint32) *visa.Claims {
	id := make([]byte, visa.CTISize)
	rand.Read(id) // never fails (crypto/rand)
	a := r.GetAsserted()
	policyHash := r.GetPolicySourceHash()
	if len(policyHash) == 0 {
		policyHash = d.policyHash[:]
	}
	return &visa.Claims{
		Issuer: m.issuer, Subject: subject, Audience: r.GetAudience(),
		ExpiresAt: now.Unix() + int64(lifetime), NotBefore: now.Unix(), IssuedAt: now.Unix(),
		ID: id, Confirmation: visa.Confirmation{Key: cbor.RawMessage(r.GetConfirmationKey())}, Nonce: r.GetNonce(),
		PolicyHash: policyHash, PermitHash: d.permitHash[:], ConfigurationHash: m.confHash[:],
		Ceiling: visa.Ceiling{Version: c.Version, Hash: c.Hash[:]},
		Tier:    m.opts.Tier, Epoch: m.opts.Epoch[:], Namespace: namespace(r), Handle: r.GetHandleHash(), Budget: r.GetRunBudget(),
		Asserted: visa.Asserted{
			AgentID: a.GetAgentId(), UID: a.GetUid(), User: a.GetUser(), PID: a.GetPid(),
			BinarySHA256: a.GetBinarySha256(), Backend: a.GetBackend(), Host: a.GetHost(), Cgroup: a.GetCgroup(),
		},
	}
}
