package cost

import (
	"errors"
	"net"
	"net/url"
)

// Address is the host:port of the provider's base URL.
func (p Provider) Address() (string, error) {
	u, err := url.Parse(p.BaseURL)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" || u.Hostname() == "" {
		return "", errors.New("its base URL is not https://HOST")
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
