package agents

import (
	"github.com/raypher/raypher/parent/attend"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// gatewayOf is where an agent calls models, as the enclave describes what is in force; nil: nothing is metered.
func (h *Host) gatewayOf(d *enclavev1.Description) *attend.Gateway {
	if h.options.Gateway == "" || len(d.GetProviders()) == 0 {
		return nil
	}
	g := &attend.Gateway{Address: h.options.Gateway}
	for _, p := range d.GetProviders() {
		g.Providers = append(g.Providers, attend.Provider{Name: p.GetName(), Kind: p.GetKind()})
	}
	return g
}

// Renew has the agents that call models ask for their next visas at once: an enclave that was started anew knows their keys by those alone.
func (h *Host) Renew() {
	for _, a := range h.List() {
		if a.handle == nil {
			continue
		}
		select {
		case a.renews <- struct{}{}:
		default:
		}
	}
}
