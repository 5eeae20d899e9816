package gateway

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// PublicRoots are the authorities that browsers trust: Mozilla's list, as the Go project keeps it in a module. An enclave's image holds no
// certificates, and these are measured with the program; on every tier they are the same.
var PublicRoots = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // one authority less
		}
		if root.Constraint != nil {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		} else {
			pool.AddCert(certificate)
		}
	}
	return pool
})

// roots are the authorities of who is at an address: those of the provider there, or else those of all.
func (g *Gateway) roots(address string) (*x509.CertPool, error) {
	for _, p := range g.opts.Providers() {
		if at, err := p.Address(); err == nil && at == address && p.CA != "" {
			return p.Authorities()
		}
	}
	return g.opts.Roots, nil
}
