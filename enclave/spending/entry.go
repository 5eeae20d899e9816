package spending

import (
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/journal"
)

// ControlEntry is the journal's entry that a cost control is in force.
func ControlEntry(c *cost.Control, at time.Time) ([]byte, error) {
	return journal.NewEntry(journal.TypeControl, at, journal.ControlInstalled{Version: c.Version, Hash: c.Hash()}.Encode())
}
