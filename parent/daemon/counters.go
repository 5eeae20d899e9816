package daemon

import (
	"context"

	"github.com/raypher/raypher/parent/guard/tally"
)

// counters are those of the parts that count for themselves.
func (d *daemon) counters() map[string]uint64 {
	s, err := d.guard.Statistics()
	if err != nil {
		return nil
	}
	all := map[string]uint64{"network_events": s.Events, "network_events_folded": s.Folded, "network_events_lost": s.Lost}
	wires, interfaces := d.wires.dropped()
	all["xdp_drop"] = wires.Packets + interfaces.Packets
	all["xdp_drop_interfaces"] = interfaces.Packets
	d.addCalls(all)
	if d.files == nil {
		return all
	}
	// Of the agents that there are: what the kernel refused is reported, folded or lost, so that no block can hide.
	for _, id := range d.files.Agents() {
		if c, err := d.files.Counters(id); err == nil {
			all["file_refusals"] += c.Refused
			all["file_events"] += c.Reported
			all["file_events_folded"] += c.Suppressed
			all["file_events_lost"] += c.Lost
		}
	}
	return all
}

// countCalls begins to count agents' system calls where --count-calls says so.
func (d *daemon) countCalls(context.Context) error {
	if !d.options.CountCalls {
		return nil
	}
	level, above, err := d.guard.Place()
	if err != nil {
		return err
	}
	if d.calls, err = tally.Load(level, above); err != nil {
		return err
	}
	d.later(d.calls.Close)
	return nil
}

// addCalls adds how often agents made each system call, and how often any.
func (d *daemon) addCalls(all map[string]uint64) {
	if d.calls == nil {
		return
	}
	counts, err := d.calls.Counts()
	if err != nil {
		return // as for every counter that cannot be read: it is missing
	}
	all["calls"] = 0
	for name, n := range counts {
		all["calls"] += n
		all["calls_"+name] = n
	}
}
