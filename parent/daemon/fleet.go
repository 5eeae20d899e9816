package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/raypher/raypher/parent/fleet"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/policy"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
	"github.com/raypher/raypher/startconf"
)

// openFleet prepares raypherd's own exchange with the controller, if the start configuration beside its keys names one. The configuration
// of an enclave that runs already may lie elsewhere: then a copy of it there does.
func (d *daemon) openFleet(context.Context) error {
	p := d.options.Paths
	configuration, err := startconf.Read(p.Keys)
	if errors.Is(err, fs.ErrNotExist) || err == nil && configuration.Controller == "" {
		return nil
	}
	if err != nil {
		return err
	}
	caller, err := link.OpenCaller(p.Keys)
	if err != nil {
		return err
	}
	d.fleet, err = fleet.Open(fleet.Options{
		Configuration: configuration, Certificate: caller.Certificate(), State: p.Keys, Report: d.report, Log: d.log,
	})
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	d.later(d.fleet.Close)
	return nil
}

// report is what the controller is told of this host.
func (d *daemon) report(ctx context.Context) *controllerv1.ReportRequest {
	r := &controllerv1.ReportRequest{Agents: uint32(len(d.agents.List())), Version: d.options.Version}
	if description, err := d.enclave.Describe(ctx); err == nil {
		r.CeilingVersion = description.GetCeilingVersion()
	}
	return r
}

// fleetPolicy finds policies of the controller for agents; nil: there is none.
func (d *daemon) fleetPolicy() func(string, func(*policy.Policy) string) (*release.Release, error) {
	if d.fleet == nil {
		return nil
	}
	return d.fleet.Policy
}
