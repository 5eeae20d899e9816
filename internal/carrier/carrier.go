// Package carrier is how a connection begins that a parent opens to its enclave for bytes that are not its own: those of an agent that
// calls a model, and those of a provider that the enclave asked for. Both are TLS connections, mutually authenticated as the one for gRPC,
// told apart by their protocol (ALPN, RFC 7301); the parent's first bytes say whose they are.
//
// Both sides read and write them here. What is read here comes from the other side of a border: everything is bounded.
package carrier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The protocols.
const (
	Agents   = "raypher-agents/1" // an agent's connection to the gateway: its id, then HTTP/1.1
	Provider = "raypher-dial/1"   // a connection that the enclave asked for: the number of the request, then the host's bytes
)

// MaxAgent is the size of the longest id of an agent, in bytes.
const MaxAgent = 255

// ErrMalformed: what came is no beginning of such a connection.
var ErrMalformed = errors.New("malformed beginning of a carried connection")

// AgentPreface is what a connection of an agent begins with: the length of its id in one byte, and the id.
func AgentPreface(id string) ([]byte, error) {
	if id == "" || len(id) > MaxAgent {
		return nil, fmt.Errorf("%w: an agent's id of %d bytes, use 1 to %d", ErrMalformed, len(id), MaxAgent)
	}
	return append([]byte{byte(len(id))}, id...), nil
}

// ReadAgent reads it, and not a byte more.
func ReadAgent(r io.Reader) (string, error) {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", err
	}
	if length[0] == 0 {
		return "", fmt.Errorf("%w: no agent's id", ErrMalformed)
	}
	id := make([]byte, length[0])
	if _, err := io.ReadFull(r, id); err != nil {
		return "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return string(id), nil
}

// NumberPreface is what a connection to a provider begins with: the number of the request that it answers, in 8 bytes, the most
// significant first.
func NumberPreface(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

// ReadNumber reads it, and not a byte more.
func ReadNumber(r io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}
