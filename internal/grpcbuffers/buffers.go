// Package grpcbuffers sizes the buffers that gRPC reads and writes messages with. Both ends of the enclave's connection import
// it for its effect on gRPC's default pool, which is the one that the protobuf codec takes.
//
// gRPC's own pool knows buffers of 32 KiB and of 1 MiB and nothing between, and clears a buffer as a whole each time that it
// hands it out. A bundle of visas or a batch of the journal has some tens of KiB, so most of a megabyte was cleared for each:
// a twentieth of the time of a visa. Here the sizes are the powers of two, and what is cleared is less than twice what is used.
package grpcbuffers

import (
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// The smallest and the largest buffers, as powers of two: 256 bytes, and the largest message of either side (4 MiB).
const (
	smallest = 8
	largest  = 22
)

func init() {
	pool, err := mem.NewBinaryTieredBufferPool(sizes()...)
	if err != nil {
		panic(err) // sizes that an int cannot hold
	}
	experimental.SetDefaultBufferPool(pool)
}

func sizes() []uint8 {
	var exponents []uint8
	for e := uint8(smallest); e <= largest; e++ {
		exponents = append(exponents, e)
	}
	return exponents
}
