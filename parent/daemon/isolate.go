package daemon

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/parent/guard/xdp"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/isolate"
)

// isolation is the wires of isolated agents, with the forwarder's sockets inside their namespaces. The programs are loaded when the
// first is needed.
type isolation struct {
	daemon *daemon
	wires  *isolate.Wires

	mu     sync.Mutex
	guard  *xdpguard.Guard
	inside map[string]func() // stops answering, by agent
}

func newIsolation(d *daemon) *isolation {
	i := &isolation{daemon: d, inside: map[string]func(){}}
	i.wires = &isolate.Wires{
		Folder: filepath.Join(instance.DefaultRun, "isolate"), Owner: d.options.Paths.Run, Guard: i.load, Log: d.log,
	}
	return i
}

func (i *isolation) load(block4, block6 netip.Prefix) (*xdpguard.Guard, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.guard != nil {
		return i.guard, nil
	}
	o := xdpguard.Options{Block4: block4, Block6: block6}
	if i.daemon.guard.Pinned() {
		o.PinDir = filepath.Join(i.daemon.options.Paths.Pins, "xdp")
	}
	var err error
	i.guard, err = xdpguard.Load(i.daemon.guard, o)
	return i.guard, err
}

// Connect makes the wire, and answers inside.
func (i *isolation) Connect(a *agents.Agent, namespace *os.File) ([]string, error) {
	notes, err := i.wires.Connect(a.ID(), a.CgroupID(), namespace)
	if err == nil {
		err = i.answer(a, namespace)
	}
	if err != nil {
		return nil, errors.Join(err, i.Disconnect(a))
	}
	return notes, nil
}

// Again takes over the wire of an agent that an earlier raypherd connected.
func (i *isolation) Again(a *agents.Agent, namespace *os.File) error {
	return errors.Join(i.wires.Again(a.ID(), a.CgroupID()), i.answer(a, namespace))
}

// answer opens the forwarder's sockets inside.
func (i *isolation) answer(a *agents.Agent, namespace *os.File) error {
	s, calls, err := isolate.Listen(namespace, i.daemon.dns.Port(), i.daemon.gatewayPort())
	if err != nil {
		return err
	}
	noCalls := func() {}
	if i.daemon.gateway != nil {
		noCalls = i.daemon.gateway.Inside(calls.Streams, a.ID())
	}
	stop := i.daemon.dns.Inside(s.Datagrams, s.Streams, func() (dns.Agent, bool) {
		permit := a.Permit()
		return dns.Agent{CgroupID: a.CgroupID(), Network: permit.Network, Mode: permit.Mode}, true
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	i.inside[a.ID()] = func() {
		stop()
		noCalls()
	}
	return nil
}

// Disconnect stops answering, which lets the kernel take the namespace away, and forgets the wire.
func (i *isolation) Disconnect(a *agents.Agent) error {
	i.mu.Lock()
	stop := i.inside[a.ID()]
	delete(i.inside, a.ID())
	i.mu.Unlock()
	if stop != nil {
		stop()
	}
	return i.wires.Disconnect(a.ID(), a.CgroupID())
}

// Clean removes what an earlier raypherd left.
func (i *isolation) Clean(goesOn func(id string) bool) error { return i.wires.Clean(goesOn) }

// dropped are the totals of the programs at interfaces; nothing where none was ever needed.
func (i *isolation) dropped() (wires, interfaces xdpguard.Dropped) {
	i.mu.Lock()
	g := i.guard
	i.mu.Unlock()
	if g != nil {
		wires, interfaces, _ = g.Total() // of maps of our own: they can be read
	}
	return wires, interfaces
}

// close lets go of the wires; agents that go on keep theirs.
func (i *isolation) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for id, stop := range i.inside {
		stop()
		delete(i.inside, id)
	}
	if i.guard == nil {
		return nil
	}
	return i.guard.Close()
}
