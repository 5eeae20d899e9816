package pid1

import (
	"fmt"
	"io"
	"time"

	"github.com/mdlayher/vsock"
)

// The heartbeat of Nitro enclaves (init/init.c of aws-nitro-enclaves-sdk-bootstrap): nitro-cli waits for it, and takes an enclave
// that does not send it for one that failed to boot.
const (
	HeartbeatPort = 9000
	heartbeat     = 0xb7
)

// heartbeatLimit bounds the wait for the answer. AWS's init waits for good, and nitro-cli gives up after a while.
const heartbeatLimit = 20 * time.Second

// Heartbeat sends one byte to the host and waits for the same one.
func Heartbeat(cid uint32) error {
	fail := func(err error) error {
		return fmt.Errorf("heartbeat to vsock context %d, port %d: %w", cid, HeartbeatPort, err)
	}
	conn, err := vsock.Dial(cid, HeartbeatPort, nil)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(heartbeatLimit)); err != nil {
		return fail(err)
	}
	beat := []byte{heartbeat}
	if _, err := conn.Write(beat); err != nil {
		return fail(err)
	}
	if _, err := io.ReadFull(conn, beat); err != nil {
		return fail(fmt.Errorf("no answer: %w", err))
	}
	if beat[0] != heartbeat {
		return fail(fmt.Errorf("the answer is %#02x, not %#02x", beat[0], heartbeat))
	}
	return nil
}
