package sequencer

import (
	"context"
	"fmt"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Namespace is a namespace with a key of its own. The head of each batch with entries for it is signed with that key too, once,
// after the journal's head: group commit stays, and a batch costs one signature more for each such namespace in it.
type Namespace struct {
	Name string
	Key  signer.Signer // must be the same for one name
}

// AppendFor is Append for entries of a namespace; nil: of none. When the journal's head can be signed and the namespace's cannot, the
// call fails alone: its entries are part of the journal then, and nothing of them is released.
func (s *Sequencer) AppendFor(ctx context.Context, of *Namespace, entries ...[]byte) (*Placed, error) {
	p, err := newPending(entries)
	if err != nil {
		return nil, err
	}
	p.namespace = of
	return s.append(ctx, p)
}

// TryAppendFor is TryAppend for entries of a namespace; nil: of none.
func (s *Sequencer) TryAppendFor(of *Namespace, then func(*Pending), entries ...[]byte) (taken bool, err error) {
	p, err := newPending(entries)
	if err != nil {
		return false, err
	}
	p.namespace = of
	return s.tryAppend(then, p)
}

// signNamespaces signs the head with the key of each namespace that has calls in the batch, and ends the calls of those whose key
// fails. It returns the signed heads by namespace, and the calls that go on.
func (s *Sequencer) signNamespaces(head journal.Head, calls []*pending) (heads map[string][]byte, left []*pending) {
	var failed map[string]error
	for _, p := range calls {
		if p.namespace == nil {
			continue
		}
		name := p.namespace.Name
		if heads[name] != nil || failed[name] != nil {
			continue
		}
		signed, err := s.signNamespace(head, p.namespace)
		if err != nil {
			if failed == nil {
				failed = make(map[string]error)
			}
			failed[name] = fmt.Errorf("journal: sign tree head for namespace %s: %w", name, err)
			continue
		}
		if heads == nil {
			heads = make(map[string][]byte)
		}
		heads[name] = signed
	}
	if failed == nil {
		return heads, calls
	}
	for _, p := range calls {
		if p.namespace != nil && failed[p.namespace.Name] != nil {
			s.fail([]*pending{p}, failed[p.namespace.Name])
		} else {
			left = append(left, p)
		}
	}
	return heads, left
}

func (s *Sequencer) signNamespace(head journal.Head, of *Namespace) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.stopped, signTimeout)
	defer cancel()
	return journal.SignNamespaceHead(journal.NamespaceHead{Head: head, Namespace: of.Name}, signer.ForJournal(ctx, of.Key))
}
