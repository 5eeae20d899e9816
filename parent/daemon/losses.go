package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/raypher/raypher/parent/doctor"
	"github.com/raypher/raypher/parent/guard/net"
)

// lossesLooked is how often the kernel's count of lost events is looked at.
const lossesLooked = 10 * time.Second

// sayLosses logs that the ring buffer of the network guard was full, with what was lost since the last time, until ctx ends. What an earlier
// raypherd lost is in the count too, and was said by that one.
func sayLosses(ctx context.Context, every time.Duration, statistics func() (netguard.Statistics, error), log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	before, known := uint64(0), false
	for {
		if s, err := statistics(); err == nil {
			if known && s.Lost > before {
				log.Warn(doctor.RingBufferFull(s.Lost - before).Error())
			}
			before, known = s.Lost, true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
