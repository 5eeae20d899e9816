package warden

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/relay"
)

// tryRelay finds out whether Yama keeps this process from its agent's, and then whether raypherd stands in for it: an agent whose
// calls nobody could look at must not begin. The runner's thread that took the floor is the first of the agent's; of none that
// could still gain rights raypherd shows anything.
func (w *warden) tryRelay(task int) error {
	scope := relay.Scope()
	w.relayed = w.options.Relayed || scope > relay.ScopeClassic
	if !w.relayed {
		return nil
	}
	if w.options.Relay == nil {
		return errors.New("this warden has no relay to raypherd")
	}
	fd, err := w.options.Relay.Memory(task)
	if err != nil {
		return fmt.Errorf("kernel.yama.ptrace_scope is %d, and raypherd cannot look at the agent's calls for its warden: %w", scope, err)
	}
	return unix.Close(fd)
}
