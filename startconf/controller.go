package startconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
)

// ErrController: whoever answers at the controller's address is not the controller.
var ErrController = errors.New("not the controller that is expected")

// ControllerTLS is the client's side of a connection to the controller of the configuration, for gRPC.
func (c *Configuration) ControllerTLS(certificate tls.Certificate) *tls.Config {
	config := PinnedTLS(certificate, c.ControllerKeys...)
	config.ServerName, _, _ = SplitAddress(c.Controller) // for who forwards by it
	config.NextProtos = []string{"h2"}
	return config
}

// PinnedTLS is the client's side of a connection to a controller: TLS 1.3, the caller's certificate, and a server with one of the keys; another
// one is ErrController. Names, dates and issuers in its certificate mean nothing.
func PinnedTLS(certificate tls.Certificate, keys ...KeyHash) *tls.Config {
	keys = slices.Clone(keys)
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{certificate},
		InsecureSkipVerify: true, // VerifyConnection compares the key
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return fmt.Errorf("%w: it shows no certificate", ErrController)
			}
			hash := KeyHash(sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo))
			if !slices.Contains(keys, hash) {
				return fmt.Errorf("%w: it has key %s, which is no controller_key", ErrController, hash)
			}
			return nil
		},
	}
}

// maxHost bounds the host of an address, in bytes (RFC 1035, section 2.3.4).
const maxHost = 253

// checkController holds that an address comes with the keys that make it one controller and no other.
func (c *Configuration) checkController() error {
	if c.Controller == "" {
		if len(c.ControllerKeys)+len(c.ResultKeys) > 0 {
			return errors.New("controller: host:port is missing: its keys stand here without it")
		}
		return nil
	}
	if len(c.ControllerKeys) == 0 {
		return errors.New("controller: no controller_key: add the line that the controller prints at its start")
	}
	if len(c.ResultKeys) == 0 {
		return errors.New("controller: no controller_result_key: add the line that the controller prints at its start")
	}
	return nil
}

// checkAddress holds that text is host:port: a name or an address, and a number. The host is text for the parent's resolver and never more.
func checkAddress(text string) error {
	host, port, err := SplitAddress(text)
	if err != nil || port == 0 || net.JoinHostPort(host, strconv.Itoa(int(port))) != text {
		return fmt.Errorf("controller %.80q: use host:port, as controller.example.org:7443", text)
	}
	return nil
}

// SplitAddress takes an address of the form host:port apart.
func SplitAddress(text string) (host string, port uint16, err error) {
	host, digits, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %.20q: use a number from 1 to 65535", digits)
	}
	if host == "" || len(host) > maxHost {
		return "", 0, fmt.Errorf("host of %d bytes, use 1 to %d", len(host), maxHost)
	}
	for _, b := range []byte(host) {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '-' && b != ':' && b != '_' {
			return "", 0, fmt.Errorf("host %.80q: use a name, or an address", host)
		}
	}
	return host, uint16(n), nil
}

// parseResultKey reads base64 of PKIX DER, ECDSA on P-256, and returns the DER.
func parseResultKey(value string) ([]byte, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, errors.New("not base64: use the line that the controller prints at its start")
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: use the line that the controller prints at its start", err)
	}
	if key, ok := parsed.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%T: use ECDSA on P-256", parsed)
	}
	return der, nil
}
