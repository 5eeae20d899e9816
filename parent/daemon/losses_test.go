package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/guard/net"
)

// Each loss is said once, with its number; what was lost before this raypherd began is not.
func TestSayLosses(t *testing.T) {
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	lost := []uint64{5, 5, 8, 8, 0, 9} // 0: the statistics cannot be read
	sayLosses(ctx, time.Microsecond, func() (netguard.Statistics, error) {
		if len(lost) == 0 {
			cancel()
			return netguard.Statistics{}, errors.New("gone")
		}
		n := lost[0]
		if lost = lost[1:]; n == 0 {
			return netguard.Statistics{}, errors.New("not now")
		}
		return netguard.Statistics{Lost: n}, nil
	}, slog.New(slog.NewTextHandler(&log, nil)))
	said := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(said) != 2 || !strings.Contains(said[0], "3 events were not recorded") || !strings.Contains(said[1], "1 event was not recorded") {
		t.Errorf("%q", said)
	}
}
