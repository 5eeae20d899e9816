package agents

import (
	"context"
	"fmt"
)

// TLSCertificate returns a certificate of TLS client authentication for the agent: DER, the authority's at the end. The enclave issues
// it on the agent's current visa, where the ceiling allows TLS keys.
func (a *Agent) TLSCertificate(ctx context.Context) ([][]byte, error) {
	if err := a.takeTLS(); err != nil {
		return nil, err
	}
	return a.host.options.Enclave.TLSCertificate(ctx, a.current().visa)
}

// TLSSign signs a TLS 1.3 handshake, as its client, with the agent's key.
func (a *Agent) TLSSign(ctx context.Context, transcript []byte) ([]byte, error) {
	if err := a.takeTLS(); err != nil {
		return nil, err
	}
	return a.host.options.Enclave.TLSSign(ctx, a.current().visa, transcript)
}

// takeTLS bounds what an agent may have signed as what it may have granted: each is an entry of the journal.
func (a *Agent) takeTLS() error {
	if !a.handshakes.take() {
		return fmt.Errorf("%w TLS signatures: agent %s may ask for %d at once and %v a second", ErrFull, a.id, visaBurst, visaRate)
	}
	return nil
}
