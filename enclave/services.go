package enclave

import (
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/mint"
)

// priced are the providers of a cost control as the mint compares them with permits.
type priced struct {
	control  *cost.Control
	services *mint.Services
}

// services are those that the cost control in force pays; nil: there is none in force. It is asked at each visa.
func (s *Server) services() *mint.Services {
	control, err := s.spends.Control()
	if err != nil {
		return nil
	}
	if known := s.priced.Load(); known != nil && known.control == control {
		return known.services
	}
	fresh := &priced{control, servicesOf(control)}
	s.priced.Store(fresh)
	return fresh.services
}

func servicesOf(control *cost.Control) *mint.Services {
	services := &mint.Services{Hash: control.Hash()}
	for _, name := range slices.Sorted(maps.Keys(control.Providers)) {
		address, err := control.Providers[name].Address()
		if err != nil {
			continue // the gateway calls none without an address
		}
		host, text, err := net.SplitHostPort(address)
		port, notAPort := strconv.ParseUint(text, 10, 16)
		if err != nil || notAPort != nil {
			continue
		}
		services.Of = append(services.Of, mint.Service{Name: name, Host: host, Port: uint16(port)})
	}
	return services
}
