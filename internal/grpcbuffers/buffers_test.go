package grpcbuffers

import (
	"testing"

	"google.golang.org/grpc/mem"
)

// A buffer for a message is less than twice as large as the message, so that little is cleared for nothing.
func TestBuffersFit(t *testing.T) {
	pool := mem.DefaultBufferPool()
	for _, size := range []int{1 << smallest, 5_000, 20_000, 33 << 10, 70_000, 300_000, 1<<20 + 1, 1 << largest} {
		buffer := pool.Get(size)
		if len(*buffer) != size || cap(*buffer) >= 2*size {
			t.Errorf("%d bytes: a buffer of %d, capacity %d", size, len(*buffer), cap(*buffer))
		}
		pool.Put(buffer)
	}
}
