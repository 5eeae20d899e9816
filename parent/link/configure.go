package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Bounds of sending a start configuration.
const (
	configureTimeout = 5 * time.Second
	maxAnswer        = 8 << 10 // bytes
)

// errConfiguration: the enclave has read the start configuration and will not start with it.
var errConfiguration = errors.New("the enclave refused the start configuration")

// configuring sends a start configuration to an enclave that waits for one, before each connection: enclaves that were started anew have
// forgotten it. One that has its configuration listens there no more, so that only a refusal is an error.
func configuring(configure, dial dialFunc, text []byte) dialFunc {
	return func(ctx context.Context) (net.Conn, error) {
		if conn, err := configure(ctx); err == nil {
			if err := send(conn, text); errors.Is(err, errConfiguration) {
				return nil, err
			}
		}
		return dial(ctx)
	}
}

// send writes the size, 4 bytes big-endian, and the text, and reads the answer (enclave/boot, ReceiveConfiguration).
func send(conn net.Conn, text []byte) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(configureTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if reason, refused := strings.CutPrefix(string(answer), "refused: "); refused {
		return fmt.Errorf("%w: %s", errConfiguration, strings.TrimSpace(reason))
	}
	return err
}
