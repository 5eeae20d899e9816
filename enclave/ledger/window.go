package ledger

// The windows of rates, in seconds. A window forgets in steps, whole buckets at a time, and never early: what was counted stays for
// the span and at most one step more.
const (
	minute     = 60
	minuteStep = 1
	day        = 24 * 3600
	dayStep    = 1800
)

// window counts what happened in the last span seconds. Its state depends on the times alone that it was given, so that replaying
// a journal makes the same.
type window struct {
	step    int64    // seconds of one bucket
	newest  int64    // number of the newest bucket: seconds since the Unix epoch / step
	buckets []uint64 // bucket i is at i modulo len
	sum     uint64
}

func newWindow(span, step int64) window {
	return window{step: step, buckets: make([]uint64, span/step+1)}
}

// advance forgets what is too old at a time (Unix seconds). A time before the newest one changes nothing.
func (w *window) advance(now int64) {
	to, size := now/w.step, int64(len(w.buckets))
	if to <= w.newest {
		return
	}
	if to-w.newest >= size {
		clear(w.buckets)
		w.newest, w.sum = to, 0
		return
	}
	for w.newest < to {
		w.newest++
		at := &w.buckets[w.newest%size]
		w.sum -= *at
		*at = 0
	}
}

// add counts n at a time that is not before the newest one by more than the span; what is older is forgotten already.
func (w *window) add(at int64, n uint64) {
	w.advance(at)
	if bucket := w.bucket(at); bucket != nil {
		*bucket = add(*bucket, n)
		w.sum = add(w.sum, n)
	}
}

// take takes back n that was added at a time.
func (w *window) take(at int64, n uint64) {
	if bucket := w.bucket(at); bucket != nil {
		n = min(n, *bucket)
		*bucket -= n
		w.sum -= n
	}
}

func (w *window) bucket(at int64) *uint64 {
	number, size := at/w.step, int64(len(w.buckets))
	if number <= w.newest-size || number > w.newest {
		return nil
	}
	return &w.buckets[number%size]
}

// refill is when, in Unix seconds, at most limit-n is counted, if nothing more comes; 0: never.
func (w *window) refill(n, limit uint64) int64 {
	if n > limit {
		return 0
	}
	left, size := w.sum, int64(len(w.buckets))
	for number := w.newest - size + 1; number <= w.newest; number++ {
		if number >= 0 {
			left -= w.buckets[number%size]
		}
		if left <= limit-n {
			return (number + size) * w.step
		}
	}
	return 0
}

// add is a + b, or the largest number there is: sums of money never begin at zero again.
func add(a, b uint64) uint64 {
	if a+b < a {
		return 1<<64 - 1
	}
	return a + b
}
