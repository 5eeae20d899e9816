package conduit

import (
	"context"
	"errors"
	"fmt"
	"time"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Of the document of the instance's NitroTPM.
const (
	// MaxDocument is the size of the largest one that is taken, in bytes. Real ones have about 5 KiB.
	MaxDocument     = 16 << 10
	documentTimeout = 20 * time.Second // a TPM takes its time
)

// InstanceDocument asks the parent for the document of the NitroTPM of the instance over a nonce of 32 bytes, and waits until ctx ends, at most
// 20 seconds. What comes is the parent's claim: whoever relies on it verifies it. Errors wrap ErrNoParent, ErrRefused (the parent has none,
// or is of an earlier release) or that of the context.
func (d *Dialer) InstanceDocument(ctx context.Context, nonce []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, documentTimeout)
	defer cancel()
	got, err := d.ask(ctx, &enclavev1.DialRequest{NitroTpmNonce: nonce})
	if err != nil {
		return nil, fmt.Errorf("document of the instance's NitroTPM: %w", err)
	}
	return got.document, nil
}

// result reads what the parent answers without a Connect stream.
func (r *request) result(m *enclavev1.DialResult) answer {
	document := m.GetNitroTpmDocument()
	switch {
	case m.GetError() != "" || len(document) == 0 || !r.document:
		return answer{err: fmt.Errorf("%w: %.*q", ErrRefused, maxReason, m.GetError())}
	case len(document) > MaxDocument:
		return answer{err: errors.New("the parent's document is too large")}
	}
	return answer{document: document}
}
