package pid1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Start says what the first process does after the set-up.
type Start struct {
	// HeartbeatCID is the vsock context id to which the heartbeat goes; NoHeartbeat: nobody.
	HeartbeatCID uint32 `json:"heartbeat_cid"`
	// Arguments of the service, without its name.
	Arguments []string `json:"arguments"`
}

// Context ids for the heartbeat (vsock(7)).
const (
	NoHeartbeat = 0 // the hypervisor's own id, which nothing here talks to
	NitroParent = 3 // the instance that started a Nitro enclave
)

// maxStart bounds the file of the orders, in bytes.
const maxStart = 16 << 10

// Encode writes the one form of these orders, or says what is wrong with them.
func (s Start) Encode() ([]byte, error) {
	if len(s.Arguments) == 0 {
		return nil, errors.New("no arguments for the service")
	}
	if slices.ContainsFunc(s.Arguments, func(a string) bool { return strings.ContainsRune(a, 0) }) {
		return nil, errors.New("an argument of the service holds a NUL")
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	if text = append(text, '\n'); len(text) > maxStart {
		return nil, fmt.Errorf("the service's arguments are longer than %d bytes", maxStart)
	}
	return text, nil
}

// ReadStart reads orders and refuses every form but the one that Encode writes.
func ReadStart(path string) (Start, error) {
	file, err := os.Open(path)
	if err != nil {
		return Start{}, fmt.Errorf("what to start: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxStart+1))
	if err != nil {
		return Start{}, fmt.Errorf("what to start: %w", err)
	}
	var s Start
	if err := json.Unmarshal(text, &s); err != nil {
		return Start{}, fmt.Errorf("%s: %w", path, err)
	}
	if again, err := s.Encode(); err != nil || !bytes.Equal(again, text) {
		return Start{}, fmt.Errorf("%s: not what raypher eif build writes", path)
	}
	return s, nil
}
