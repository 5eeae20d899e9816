package daemon

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"github.com/raypher/raypher/parent/gateway"
)

// gatewayAddress is where agents call models; empty: nowhere.
func (d *daemon) gatewayAddress() string {
	if d.gateway == nil {
		return ""
	}
	return d.gateway.Address().String()
}

// gatewayPort is that port; 0: there is none.
func (d *daemon) gatewayPort() uint16 {
	if d.gateway == nil {
		return 0
	}
	return d.gateway.Address().Port()
}

// bindGateway comes after the guard and the agents.
func (d *daemon) bindGateway() {
	if d.gateway == nil {
		return
	}
	d.gateway.Bind(gateway.Options{Agent: d.whoCalls, Open: d.enclave.OpenAgent, Log: d.log})
	d.enclave.follow(d.agents.Renew)
}

// whoCalls tells the gateway whose connection it has.
func (d *daemon) whoCalls(local, remote netip.AddrPort) (string, bool) {
	id, ok := d.guard.Peer(syscall.IPPROTO_TCP, local, remote)
	if !ok {
		return "", false
	}
	a, ok := d.agents.ByCgroup(id)
	if !ok {
		return "", false
	}
	return a.ID(), true
}

// OpenAgent opens a connection to the enclave's gateway.
func (e *enclave) OpenAgent(ctx context.Context, id string) (net.Conn, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.OpenAgent(ctx, id)
}

// follow has f called whenever the enclave was connected.
func (e *enclave) follow(f func()) { e.attached.Store(&f) }

// connected is told of each connection, also of those before somebody follows.
func (e *enclave) connected() {
	if f := e.attached.Load(); f != nil {
		(*f)()
	}
}
