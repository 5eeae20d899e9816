// Package runs keeps which runs may call models, and by which key: the SHA-256 of a run's placeholder API key, its handle, stands in its
// visa. The mint tells of each visa; the gateway asks. Nothing is kept beyond a visa's end, and nothing across a restart: the next
// visa of the run, which the parent asks for at once when it finds a new enclave, brings it back.
package runs

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/enclave/mint"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// MaxRuns is how many runs with a handle there may be at once.
const MaxRuns = 16384

// Run is one that may call models.
type Run struct {
	Namespace string
	Agent     string // name
	ID        string // the agent's id, as the parent asserted it
	Budget    uint64 // micro-dollars that it may spend in its life; 0: what the cost control says
}

// Runs is safe for concurrent use.
type Runs struct {
	now func() time.Time

	mu   sync.Mutex
	runs map[journal.Hash]*run
}

type run struct {
	Run
	expires time.Time
}

// New returns an empty set. now is the clock by which visas end; nil: time.Now.
func New(now func() time.Time) *Runs {
	if now == nil {
		now = time.Now
	}
	return &Runs{now: now, runs: make(map[journal.Hash]*run)}
}

// Admit implements mint.Runs. A handle is that of one agent while its visa lives.
func (r *Runs) Admit(handle journal.Hash, agent string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.runs[handle]
	switch {
	case known != nil && known.ID != agent && r.now().Before(known.expires):
		return fmt.Errorf("%w: the handle is that of another run", mint.ErrDenied)
	case known == nil && len(r.runs) >= MaxRuns && !r.forget():
		return fmt.Errorf("%w: %d runs with a handle live: try again when some have ended", mint.ErrRate, MaxRuns)
	}
	return nil
}

// Granted implements mint.Runs. Of several visas of a run the one that ends last counts.
func (r *Runs) Granted(c *visa.Claims) {
	handle := journal.Hash(c.Handle)
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.runs[handle]
	if known != nil && known.ID != c.Asserted.AgentID && r.now().Before(known.expires) {
		return // two were admitted at once: the first one is on record
	}
	if known == nil && len(r.runs) >= MaxRuns && !r.forget() {
		return // the same
	}
	expires := c.Expires()
	if known != nil && known.ID == c.Asserted.AgentID && known.expires.After(expires) {
		expires = known.expires
	}
	budget := c.Budget
	if known != nil && known.ID == c.Asserted.AgentID && known.Budget > 0 && (budget == 0 || known.Budget < budget) {
		budget = known.Budget // a later visa widens nothing
	}
	name := c.Subject[strings.LastIndexByte(c.Subject, '/')+1:]
	r.runs[handle] = &run{Run{Namespace: c.Namespace, Agent: name, ID: c.Asserted.AgentID, Budget: budget}, expires}
}

// Budgets are those of the runs that are remembered, by id: of a run that ended, too, until its place is needed. 0: its visas named none.
func (r *Runs) Budgets() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]uint64, len(r.runs))
	for _, known := range r.runs {
		all[known.ID] = known.Budget
	}
	return all
}

// forget drops runs whose visa ended; false: there are none.
func (r *Runs) forget() (some bool) {
	now := r.now()
	for handle, known := range r.runs {
		if !now.Before(known.expires) {
			delete(r.runs, handle)
			some = true
		}
	}
	return some
}

// Find returns the run whose placeholder key it is. What is looked up is the key's hash, so that the time that it takes says nothing
// of other keys.
func (r *Runs) Find(key string) (Run, bool) {
	handle := journal.Hash(sha256.Sum256([]byte(key)))
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.runs[handle]
	if known == nil || !r.now().Before(known.expires) {
		return Run{}, false
	}
	return known.Run, true
}
