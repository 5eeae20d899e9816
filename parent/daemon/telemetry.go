package daemon

import (
	"context"
	"net"

	"github.com/raypher/raypher/parent/telemetry"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// openTelemetry opens the listener of metrics, where one is asked for.
func (d *daemon) openTelemetry(context.Context) (err error) {
	if d.options.OTLP != "" {
		if err := telemetry.CheckOTLP(d.options.OTLP); err != nil {
			return err
		}
	}
	if d.options.Metrics == "" {
		return nil
	}
	if d.metrics, err = telemetry.Listen(d.options.Metrics); err != nil {
		return err
	}
	d.later(func() error { _ = d.metrics.Close(); return nil }) // it is closed where it was served
	return nil
}

// tell tells operators' tools what the enclave observes, until ctx ends.
func (d *daemon) tell(ctx context.Context) error {
	o := telemetry.Options{
		Observe: d.enclave.Observe, Metrics: d.metrics, OTLP: d.options.OTLP, Version: d.options.Version, Log: d.log,
		Spending: func(ctx context.Context) (*enclavev1.SpendingStatus, error) {
			return d.enclave.DescribeSpending(ctx, &enclavev1.DescribeSpendingRequest{})
		},
	}
	return telemetry.Run(ctx, o)
}

// metricsAddress is where metrics are served; empty: nowhere.
func (d *daemon) metricsAddress() string { return addressOf(d.metrics) }

func addressOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// Observe passes on what the enclave observes, until ctx or the enclave's stream ends.
func (e *enclave) Observe(ctx context.Context, each func(*enclavev1.Observation)) error {
	l, err := e.get()
	if err != nil {
		return err
	}
	return l.Observe(ctx, each)
}
