package egress

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/raypher/raypher/parent/splice"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// carryProvider connects to a provider of models and carries bytes, on a connection of its own, until it is over. An error means that it
// was never made.
func carryProvider(ctx context.Context, o Options, r *enclavev1.DialRequest) error {
	if o.Open == nil || o.Providers == nil {
		return errors.New("this host carries no connections to providers")
	}
	address := addressOf(r)
	if !slices.Contains(o.Allowed, address) {
		listed, err := o.Providers(ctx)
		if err != nil {
			return fmt.Errorf("whether %.300s is a provider: %w", address, err)
		}
		if !slices.Contains(listed, address) {
			return notListed(address)
		}
	}
	host, err := connect(ctx, address)
	if err != nil {
		return err
	}
	enclave, err := o.Open(ctx, r.GetNumber())
	if err != nil {
		host.Close()
		return err
	}
	end := context.AfterFunc(ctx, func() {
		host.Close()
		enclave.Close()
	})
	defer end()
	splice.Both(host, enclave)
	return nil
}
