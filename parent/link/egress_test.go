package link

import (
	"slices"
	"testing"

	"github.com/raypher/raypher/startconf"
)

// raypherd connects its enclave to what was listed and to what the start configuration needs, each once, and leaves the list alone.
func TestWithConfigured(t *testing.T) {
	const arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	listed := make([]string, 1, 8)
	listed[0] = "kms.eu-central-1.amazonaws.com:443"
	configuration := &startconf.Configuration{Controller: "controller.example.org:7443", KMSSecrets: []startconf.KMSSecret{{Name: "a", Key: arn, Ciphertext: []byte{1}}}}
	want := []string{"kms.eu-central-1.amazonaws.com:443", "controller.example.org:7443", "169.254.169.254:80"}
	if got := withConfigured(listed, configuration); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if listed[:2][1] != "" {
		t.Error("the list of the options was written to")
	}
	if got := withConfigured(nil, &startconf.Configuration{}); len(got) != 0 {
		t.Errorf("%q for a configuration that needs nothing", got)
	}
}
