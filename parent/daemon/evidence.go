package daemon

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// evidence reads the audit store for operators.
type evidence struct{ store *audit.Store }

// List sends every recorded verdict and approval of an agent, or of all.
func (e evidence) List(ctx context.Context, agent string, each func(*parentv1.EvidenceItem) error) error {
	for r, err := range e.store.Entries(audit.Filter{Types: []journal.Type{journal.TypeVerdict, journal.TypeApproval}, Agent: agent}) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			item := &parentv1.EvidenceItem{Epoch: r.Epoch[:], Index: r.Index}
			if r.Entry.Type == journal.TypeApproval {
				item.Approval = r.Entry.Payload
			} else {
				item.Verdict = r.Entry.Payload
			}
			err = each(item)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Export returns the proof of one entry.
func (e evidence) Export(_ context.Context, epoch []byte, index uint64) ([]byte, error) {
	id, err := journal.ParseEpochID(epoch)
	if err != nil {
		return nil, err
	}
	if index >= e.store.Size(id) {
		return nil, fmt.Errorf("entry %d of epoch %s: %w", index, id, fs.ErrNotExist)
	}
	bundle, err := e.store.Export(id, index)
	if err != nil {
		return nil, err
	}
	return bundle.Encode()
}
