package agents

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/policy"
)

// TestAMissingBlockIsJournalled: blocks whose verdicts were dropped on their way are in the journal by their number; with all of them
// heard, or some of them by an earlier raypherd, nothing is said to be lost.
func TestAMissingBlockIsJournalled(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		sent, dropped        int
		partly               bool
		wantLost, wantBlocks uint32
	}{
		{"all heard", 5, 0, false, 0, 5},
		{"some dropped", 5, 3, false, 3, 2},
		{"all dropped", 4, 4, false, 4, 0},
		{"an earlier raypherd heard some", 5, 3, true, 0, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mutex sync.Mutex
			var lost, blocks uint32
			hub, err := events.New(events.Options{
				Record: func(_ context.Context, verdicts [][]byte) ([]byte, uint64, error) {
					mutex.Lock()
					defer mutex.Unlock()
					for _, raw := range verdicts {
						v, err := journal.DecodeVerdict(raw)
						if err != nil {
							return nil, 0, err
						}
						if v.Operation == "lost" {
							lost += v.Count
						} else {
							blocks += v.Count
						}
					}
					return []byte("epoch"), 0, nil
				},
				Spool: filepath.Join(t.TempDir(), "spool"), Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			a := &Agent{id: "agent", subject: "spiffe://test/agent", host: &Host{options: Options{Events: hub}}}
			a.grant.permit = &policy.Policy{Mode: policy.Enforce}
			a.tally.partly.Store(tt.partly)
			for i := range tt.sent - tt.dropped {
				raw, err := journal.EncodeVerdict(journal.Verdict{
					Time: time.Now().UnixNano(), AgentID: "agent", Decision: journal.Block, Layer: "broker", Operation: "unlink", Target: "/" + string(rune('a'+i)), Count: 1,
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := a.Report(raw); err != nil {
					t.Fatal(err)
				}
			}
			a.Blocked(&attend.Blocked{Total: uint64(tt.sent)})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = hub.Run(ctx) }() // its end is the test's
			for range 500 {
				mutex.Lock()
				enough := lost == tt.wantLost && blocks == tt.wantBlocks
				mutex.Unlock()
				if enough {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
			<-done
			if lost != tt.wantLost || blocks != tt.wantBlocks {
				t.Errorf("%d lost and %d blocked in the journal, want %d and %d", lost, blocks, tt.wantLost, tt.wantBlocks)
			}
		})
	}
}
