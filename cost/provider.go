package cost

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/url"

	"github.com/raypher/raypher/internal/strictyaml"
)

// Address is the host:port of the provider's base URL.
func (p Provider) Address() (string, error) { return addressOf(p.BaseURL) }

// Address is the host:port of the webhook.
func (a Alert) Address() (string, error) { return addressOf(a.Webhook) }

func addressOf(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" || u.Hostname() == "" {
		return "", errors.New("its URL is not https://HOST")
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Authorities are the certificates of CA; nil: the public ones.
func (p Provider) Authorities() (*x509.CertPool, error) { return Authorities(p.CA) }

// Authorities are the certificates of a text in PEM; nil for an empty one.
func Authorities(text string) (*x509.CertPool, error) {
	if text == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(certificate)
	}
	if pool.Equal(x509.NewCertPool()) {
		return nil, errors.New("no certificate in PEM")
	}
	return pool, nil
}

func (d decoder) authorities(at place, n *node, into *string) {
	var text string
	if !d.Text(at, n, &text) {
		return
	}
	if _, err := Authorities(text); err != nil || len(text) > maxCA {
		d.Report(at, strictyaml.Faultf("write the certificates of the authority, -----BEGIN CERTIFICATE----- and so on, below `ca: |`", "these are no certificates"))
		return
	}
	*into = text
}

// otherAuthorities says whether a provider at the same address has other authorities: connections do not know for which one they are.
func otherAuthorities(all map[string]Provider, p Provider) bool {
	address, err := p.Address()
	if err != nil {
		return false
	}
	for _, other := range all {
		if at, err := other.Address(); err == nil && at == address && other.CA != p.CA {
			return true
		}
	}
	return false
}
