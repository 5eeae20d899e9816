package cost

import (
	"strings"
	"testing"
)

// authority is a certificate of nobody.
const authority = `-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUdwLl2e6PFv7jINJWWLhonKp/wtMwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMzA4MTYwNVoYDzIxMjYxMDMwMDgx
NjA1WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASVY1XnZJS7HMc57EjvqfVyCUYnXzP55hggD33Dabiqmo3mU0p78ezhydZdq7Fd
a77q4yo3NvJ7j59Zi2IhkkZOo1MwUTAdBgNVHQ4EFgQUa4U/Jch5DJRb8UYrS3Yu
ZSooX/AwHwYDVR0jBBgwFoAUa4U/Jch5DJRb8UYrS3YuZSooX/AwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAdR4oDo2x/pdC5nfN4eR4uq5YcBUZr
XigvLzlNvYZJjQIhALXqd9qjGR6Ar9birtf0PAgS/NuwbR7nDrxIS/jyoRHz
-----END CERTIFICATE-----
`

// A provider's address has the port that https has, unless its URL names one.
func TestAddressOfAProvider(t *testing.T) {
	for url, want := range map[string]string{
		"https://api.example.com/v1": "api.example.com:443", "https://127.0.0.1:8443": "127.0.0.1:8443", "https://[::1]/v1": "[::1]:443", "http://x": "", "https://": "",
	} {
		if got, err := (Provider{BaseURL: url}).Address(); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
}

// The authority of a provider is signed with the rest, and read again from the canonical form; two providers at one address have the same.
func TestAuthorities(t *testing.T) {
	at := func(url, ca string) string {
		line := "{kind: openai, base_url: \"" + url + "\", key: k"
		if ca != "" {
			line += ", ca: \"" + strings.ReplaceAll(ca, "\n", "\\n") + "\""
		}
		return line + "}"
	}
	c, err := Parse("f", []byte(head+"providers: {a: "+at("https://x", authority)+", b: "+at("https://y", "")+"}"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseCanonical(c.Canonical()); err != nil || again.Providers["a"].CA != authority {
		t.Errorf("%v, %v", again, err)
	}
	if pool, err := c.Providers["a"].Authorities(); pool == nil || err != nil {
		t.Errorf("%v, %v", pool, err)
	}
	if pool, err := c.Providers["b"].Authorities(); pool != nil || err != nil {
		t.Errorf("the public ones: %v, %v", pool, err)
	}
	c, err = Parse("f", []byte(head+"alerts: [{at: 80%, webhook: \"https://y:8443/h\", ca: \""+strings.ReplaceAll(authority, "\n", "\\n")+"\"}]"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseCanonical(c.Canonical()); err != nil || again.Alerts[0].CA != authority {
		t.Errorf("of an alert: %v, %v", again, err)
	}
	if address, err := c.Alerts[0].Address(); address != "y:8443" || err != nil {
		t.Errorf("of an alert: %s, %v", address, err)
	}
	if _, err := Parse("f", []byte(head+"providers: {a: "+at("https://x", authority)+", b: "+at("https://x:443/v1", "")+"}")); err == nil || !strings.Contains(err.Error(), "another ca") {
		t.Errorf("two authorities at one address: %v", err)
	}
}
