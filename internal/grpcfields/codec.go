// Package grpcfields bounds how many fields a message has that a server takes. A repeated field can have an element in every two bytes,
// each of which is decoded into a hundred: a bound on bytes alone lets a caller take fifty times that of memory, before any handler runs.
package grpcfields

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Codec is gRPC's codec of protocol buffers (grpc.ForceServerCodecV2), which refuses a message of more than most fields, elements of a repeated
// field each for itself, before it is decoded. Fields of messages within it are not counted: requests have no repeated ones there.
func Codec(most int) encoding.CodecV2 {
	return codec{encoding.GetCodecV2(proto.Name), most}
}

type codec struct {
	encoding.CodecV2
	most int
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if data.Len() <= 2*c.most { // a field has two bytes at least
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	if crowded(whole.ReadOnlyData(), c.most) {
		return fmt.Errorf("a message of more than %d fields", c.most)
	}
	return c.CodecV2.Unmarshal(mem.BufferSlice{whole}, v)
}

// crowded says whether a message has more fields. What is none is for the decoder to refuse.
func crowded(message []byte, most int) bool {
	for fields := 0; len(message) > 0; fields++ {
		if fields == most {
			return true
		}
		_, _, n := protowire.ConsumeField(message)
		if n < 0 {
			return false
		}
		message = message[n:]
	}
	return false
}
