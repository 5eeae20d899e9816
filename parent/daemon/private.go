package daemon

import (
	"context"
	"errors"
	"time"
)

// gone notes that the last agent of a private instance is gone.
func (d *daemon) gone(left int) {
	if left > 0 {
		return
	}
	select {
	case d.emptied <- struct{}{}:
	default:
	}
}

// firstAgent is how long a private raypherd waits for the run that it was started for.
const firstAgent = 30 * time.Second

// untilEmpty returns when the private instance's last agent is gone, or none came.
func (d *daemon) untilEmpty(ctx context.Context) {
	timer := time.NewTimer(firstAgent)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.emptied:
			return
		case <-timer.C:
			if len(d.agents.List()) == 0 {
				d.log.Warn("no agent came to this private raypherd")
				return
			}
		}
	}
}

// stopAgents ends what is left in a private instance: nobody would clean up after it.
func (d *daemon) stopAgents() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	for _, a := range d.agents.List() {
		err = errors.Join(err, d.agents.Stop(ctx, a.ID(), "its private raypherd was ended"))
	}
	return err
}
