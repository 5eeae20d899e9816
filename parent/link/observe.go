package link

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Observe calls each for what the enclave observes from now on: calls of models that ended, alerts, alarms. It returns when ctx or the stream
// ends.
func (l *Link) Observe(ctx context.Context, each func(*enclavev1.Observation)) error {
	stream, err := l.client.Observe(ctx, &enclavev1.ObserveRequest{})
	if err != nil {
		return l.explain(err)
	}
	for {
		seen, err := stream.Recv()
		if err != nil {
			return l.explain(err)
		}
		each(seen)
	}
}
