package conformance

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/raypher/raypher/journal"
)

// Verdicts are those among the whole lines that `raypher run --json` has said so far.
func Verdicts(said string) ([]journal.Verdict, error) {
	var all []journal.Verdict
	for line := range strings.Lines(said) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") {
			continue
		}
		var v struct {
			Event string `json:"event"`
			journal.Verdict
			VisaID string `json:"visa_id"` // hides the field of the verdict, which is bytes
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("raypher run --json: %w: %s", err, line)
		}
		if v.Event == "verdict" {
			all = append(all, v.Verdict)
		}
	}
	return all, nil
}
