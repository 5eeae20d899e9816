package mint

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
)

// decision is the outcome of one narrowing. It depends on nothing but what its key covers.
type decision struct {
	canonical  []byte // of the permit
	permitHash journal.Hash
	policyHash journal.Hash // of the policy as it came, expanded
	maxTTL     uint32       // of the grant; 0: no bound of its own
}

// Services are the providers of models whose calls a budget pays. They are immutable.
type Services struct {
	Hash journal.Hash // of what names them: other services have another one
	Of   []Service
}

// Service is one provider.
type Service struct {
	Name, Host string
	Port       uint16
}

// decide checks the key of the agent, narrows, and holds the budget against what the permit reaches.
func decide(c *ceiling.Ceiling, s *Services, r *enclavev1.MintRequest) (*decision, error) {
	if _, err := visa.ParseConfirmationKey(r.GetConfirmationKey()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	permit, d, err := narrow(c, r)
	if err != nil {
		return nil, err
	}
	if err := s.metered(permit); err != nil {
		return nil, err
	}
	return d, nil
}

// metered refuses what reaches a service past the gateway, where nobody counts what its calls cost. A mode that refuses nothing does.
func (s *Services) metered(permit *policy.Policy) error {
	n := permit.Network
	if s == nil || len(s.Of) == 0 || n != nil && n.Unmetered == policy.UnmeteredAllow {
		return nil
	}
	if permit.Mode == policy.Audit || permit.Mode == policy.Permissive {
		return fmt.Errorf("%w: mode %s refuses nothing, so the providers of models can be reached past the gateway, where nothing counts what "+
			"their calls cost: use enforce, or write `unmetered: allow` under network, at each level", ErrDenied, permit.Mode)
	}
	for _, one := range s.Of {
		if rule, ok := n.Reaches(one.Host, one.Port); ok {
			return fmt.Errorf("%w: the rule %q reaches provider %s past the gateway, where nothing counts what its calls cost: leave it out, since "+
				"the gateway needs no rule, or write `unmetered: allow` under network, at each level", ErrDenied, rule, one.Name)
		}
	}
	return nil
}

// decisionKey covers everything that narrow and the check of the confirmation key read, each part with its length.
func decisionKey(c *ceiling.Ceiling, s *Services, r *enclavev1.MintRequest) [sha256.Size]byte {
	parts := make([]byte, 0, 1024) // as much as most requests have
	bytes := func(part []byte) { parts = append(binary.BigEndian.AppendUint64(parts, uint64(len(part))), part...) }
	text := func(part string) { parts = append(binary.BigEndian.AppendUint64(parts, uint64(len(part))), part...) }
	a := r.GetAsserted()
	bytes(c.Hash[:])
	if s != nil {
		bytes(s.Hash[:])
	} else {
		bytes(nil)
	}
	bytes(r.GetPolicy())
	bytes(r.GetManifest())
	bytes(r.GetIntent())
	bytes(r.GetConfirmationKey())
	text(namespace(r))
	text(r.GetName())
	text(a.GetUser())
	text(a.GetHome())
	bytes(a.GetBinarySha256())
	return sha256.Sum256(binary.BigEndian.AppendUint64(parts, uint64(a.GetUid())))
}

// narrow is ceiling ⊇ policy ⊇ manifest ⊇ intent. What asks beyond the level above it is an error that lists every item.
func narrow(c *ceiling.Ceiling, r *enclavev1.MintRequest) (*policy.Policy, *decision, error) {
	asked, err := policy.ParseCanonical(r.GetPolicy())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: policy: %w", ErrInvalid, err)
	}
	if asked.Namespace != "" && asked.Namespace != namespace(r) {
		return nil, nil, fmt.Errorf("%w: the policy is for namespace %q, the request for %q", ErrInvalid, asked.Namespace, namespace(r))
	}
	permit, maxTTL, err := underCeiling(c, r, complete(asked))
	if err != nil {
		return nil, nil, err
	}
	for _, level := range []struct {
		name string
		text []byte
	}{{"manifest", r.GetManifest()}, {"intent", r.GetIntent()}} {
		if len(level.text) == 0 {
			continue
		}
		inner, err := policy.ParseCanonical(level.text)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %w", ErrInvalid, level.name, err)
		}
		if permit, err = policy.Narrow(permit, inner); err != nil {
			return nil, nil, fmt.Errorf("%w: the %s asks beyond the level above it: %w", ErrDenied, level.name, err)
		}
	}
	return permit, &decision{canonical: permit.Canonical(), permitHash: permit.Hash(), policyHash: asked.Hash(), maxTTL: maxTTL}, nil
}

// complete says what a policy leaves out, so that nothing is inherited from a ceiling that is wider: no mode is enforce, no
// network section reaches nothing. No filesystem section stays so: it inherits the ceiling's.
func complete(p *policy.Policy) *policy.Policy {
	c := *p
	if c.Mode == "" {
		c.Mode = policy.Enforce
	}
	if c.Network == nil {
		c.Network = &policy.Network{DefaultAction: policy.Drop}
	}
	return &c
}

// underCeiling narrows by the first grant that is for this agent and wide enough.
func underCeiling(c *ceiling.Ceiling, r *enclavev1.MintRequest, asked *policy.Policy) (*policy.Policy, uint32, error) {
	a := r.GetAsserted()
	request := ceiling.Request{Namespace: namespace(r), Name: r.GetName(), UID: a.GetUid(), User: a.GetUser(), Binary: a.GetBinarySha256()}
	var mismatches, excesses []error
	for i, g := range c.Grants {
		if err := g.Match(request); err != nil {
			mismatches = append(mismatches, fmt.Errorf("grant %d: %w", i+1, err))
			continue
		}
		outer, err := expand(g.Permit, a.GetHome())
		if errors.Is(err, errNoHome) {
			mismatches = append(mismatches, fmt.Errorf("grant %d: %w", i+1, err))
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%w: grant %d of the ceiling: %w", ErrInvalid, i+1, err)
		}
		permit, err := policy.Narrow(outer, asked)
		if err == nil {
			return permit, g.MaxTTLSeconds, nil
		}
		excesses = append(excesses, fmt.Errorf("beyond grant %d of ceiling version %d: %w", i+1, c.Version, err))
	}
	if len(excesses) > 0 {
		return nil, 0, fmt.Errorf("%w: %w", ErrDenied, errors.Join(excesses...))
	}
	const shown = 8
	return nil, 0, fmt.Errorf("%w: no grant of ceiling version %d is for agent %s of namespace %s: %w",
		ErrDenied, c.Version, r.GetName(), namespace(r), errors.Join(mismatches[:min(len(mismatches), shown)]...))
}

// errNoHome: what ~ would stand for is missing, or is the whole file system.
var errNoHome = errors.New("its permit names ~, and the agent has no home of its own")

// expand puts the agent's home in place of ~. The home is asserted by the parent: a ~ binds an honest parent, no other.
func expand(p *policy.Policy, home string) (*policy.Policy, error) {
	if !namesHome(p) {
		return p, nil
	}
	if home == "" || home == "/" {
		return nil, errNoHome
	}
	return p.Expand(home)
}

func namesHome(p *policy.Policy) bool {
	var patterns []string
	if f := p.Filesystem; f != nil {
		patterns = slices.Concat(f.Read, f.Write, f.Exec, f.Deny, f.RequireApproval)
	}
	if n := p.Network; n != nil {
		patterns = append(patterns, n.Unix...)
	}
	return slices.ContainsFunc(patterns, func(pattern string) bool { return strings.HasPrefix(pattern, "~") })
}

// Bounds of the remembered decisions.
const (
	maxDecisions     = 4096
	maxDecisionBytes = 32 << 20 // of permits
)

// decisions remembers the most recently used ones.
type decisions struct {
	mu    sync.Mutex
	byKey map[[sha256.Size]byte]*list.Element
	order list.List // of remembered, most recent first
	bytes int
}

type remembered struct {
	key [sha256.Size]byte
	d   *decision
}

func newDecisions() *decisions {
	return &decisions{byKey: make(map[[sha256.Size]byte]*list.Element)}
}

func (s *decisions) get(key [sha256.Size]byte) *decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byKey[key]
	if e == nil {
		return nil
	}
	s.order.MoveToFront(e)
	return e.Value.(remembered).d
}

func (s *decisions) put(key [sha256.Size]byte, d *decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey[key] != nil {
		return
	}
	s.byKey[key] = s.order.PushFront(remembered{key, d})
	s.bytes += len(d.canonical)
	for s.order.Len() > maxDecisions || s.bytes > maxDecisionBytes {
		last := s.order.Back()
		r := s.order.Remove(last).(remembered)
		delete(s.byKey, r.key)
		s.bytes -= len(r.d.canonical)
	}
}
