package alerts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/internal/statefile"
)

// file is the name in the state folder. Whoever sets it back has alerts told again; whoever removes it, those that were not delivered.
const file = "alerts.json"

const maxFile = 16 << 20 // bytes

// kept is what is remembered across restarts.
type kept struct {
	Month   string     `json:"month"`
	Told    []string   `json:"told"` // keys of thresholds that were passed this month, and of runs
	Pending []*message `json:"pending"`
}

func (a *Alerts) read() error {
	text, err := statefile.Read(filepath.Join(a.opts.State, file), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		a.nothing = true
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &a.kept)
	}
	if err == nil && (len(a.kept.Pending) > MaxPending || slices.Contains(a.kept.Pending, nil)) {
		err = errors.New("too many messages")
	}
	if err != nil {
		return fmt.Errorf("alerts: %s: %w: remove the file: then what was not delivered is not", file, err)
	}
	for _, key := range a.kept.Told {
		a.known[key] = true
	}
	return nil
}

// write keeps what is to be remembered. Where it fails, a restart tells some alerts again.
func (a *Alerts) write() {
	text, err := json.Marshal(&a.kept)
	if err == nil {
		err = statefile.Write(a.opts.State, file, text)
	}
	if err != nil {
		a.opts.Log.Error("alerts cannot be kept: after a restart some are told again", "reason", err)
	}
}

// month begins another one: what was told is forgotten, but for runs, whose budgets are for their lives. It says whether anything changed.
func (a *Alerts) month(period string) bool {
	if period == a.kept.Month || period == "" {
		return false
	}
	a.kept.Month = period
	run := ledger.LevelName(ledger.Run) + " "
	there := map[string]bool{}
	for _, account := range a.opts.Report("", "", "").Accounts {
		if account.Level == ledger.Run {
			there[account.Name] = true
		}
	}
	a.kept.Told = slices.DeleteFunc(a.kept.Told, func(key string) bool {
		name, isRun := strings.CutPrefix(key, run)
		name, _, _ = strings.Cut(name, " ")
		forget := !isRun || !there[name]
		if forget {
			delete(a.known, key)
		}
		return forget
	})
	return true
}
