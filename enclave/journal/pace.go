package sequencer

import "time"

// pace decides how long a batch waits for company. With a slow signing device the callers fall into two groups that take turns:
// one waits for a signature while the other, just served, has come back too late for it. Waiting for a fraction of the
// signing time lets them share one signature, which nearly doubles what a device carries.
type pace struct {
	signing time.Duration // of the last batch
	calls   int           // in it
}

const (
	lingerShare = 8                      // of the signing time: one eighth
	maxLinger   = 10 * time.Millisecond  // whatever the device
	minLinger   = 200 * time.Microsecond // less is not worth a timer: fast signers never wait
)

// linger is how long to wait before the next batch is closed. A lone caller does not wait.
func (p pace) linger() time.Duration {
	wait := min(p.signing/lingerShare, maxLinger)
	if p.calls < 2 || wait < minLinger {
		return 0
	}
	return wait
}

// linger waits for company; false: the sequencer is closed.
func (s *Sequencer) linger(p pace) bool {
	wait := p.linger()
	if wait == 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.stopped.Done():
		return false
	}
}
