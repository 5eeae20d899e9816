package daemon

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"reflect"
	"syscall"
)

// reload reads the host's policy and what its namespaces may use anew, and says what changed. A mistake in either changes nothing. Agents
// that run keep what they were granted.
func (d *daemon) reload() ([]string, error) {
	policy, err := readPolicy(d.options.Policy)
	if err != nil {
		return nil, err
	}
	limits, err := readNamespaces(d.options.Namespaces)
	if err != nil {
		return nil, err
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	var changes []string
	if !bytes.Equal(policy, d.policy) {
		changes = append(changes, d.options.Policy+": is for agents that begin from now on; those that run keep theirs (`raypher policy apply` gives them another)")
	}
	if !reflect.DeepEqual(limits, d.limits) {
		changes = append(changes, d.options.Namespaces+": is for agents that begin from now on; those that run keep their shares")
	}
	d.policy, d.limits = policy, limits
	d.agents.Follow(policy, limits)
	d.log.Info("the host's files are read anew", "changes", changes)
	return changes, nil
}

// reloadOnHangup is reload at each SIGHUP, until ctx ends. The reason that nothing changed goes to the log.
func (d *daemon) reloadOnHangup(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			if _, err := d.reload(); err != nil {
				d.log.Error("the host's files are not read anew: what was in force stays", "reason", err)
			}
		}
	}
}
