package link

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"
)

// dialer reads an address: unix:PATH or vsock:CID:PORT.
func dialer(address string) (func(context.Context) (net.Conn, error), error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && path != "" {
		return func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}, nil
	}
	if rest, ok := strings.CutPrefix(address, "vsock:"); ok {
		cidText, portText, _ := strings.Cut(rest, ":")
		cid, cidErr := strconv.ParseUint(cidText, 10, 32)
		port, portErr := strconv.ParseUint(portText, 10, 32)
		if cidErr == nil && portErr == nil {
			return func(context.Context) (net.Conn, error) {
				return vsock.Dial(uint32(cid), uint32(port), nil)
			}, nil
		}
	}
	return nil, fmt.Errorf("enclave address %q: use unix:PATH or vsock:CID:PORT", address)
}
