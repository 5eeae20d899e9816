package enclave

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// TestNoVisaPastTheGateway: from the moment that a cost control pays a provider, no visa lets an agent reach it by a rule, until the
// policy says unmetered; one that was granted before is decided again.
func TestNoVisaPastTheGateway(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	mint := func(text string) error {
		p, err := policy.Parse("p", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		request := mintRequest()
		request.Policy = p.Canonical()
		_, err = client.Mint(t.Context(), request)
		return err
	}
	const reaching = `network: {egress: ["api.example.com:8443"]}`
	if err := mint(reaching); err != nil {
		t.Fatalf("where no provider is paid: %v", err)
	}
	_, err := client.InstallControl(t.Context(), &enclavev1.InstallControlRequest{Source: []byte(`
version: 9
time_zone: UTC
monthly_budget_usd: 1
providers: {house: {kind: openai, base_url: "https://api.example.com:8443/v1", key: house}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	if err := mint(reaching); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "reaches provider house past the gateway") {
		t.Errorf("by name and port: %v", err)
	}
	for name, text := range map[string]string{
		"another port": `network: {egress: ["api.example.com:443"]}`, "said so": `network: {unmetered: allow, egress: ["api.example.com:8443"]}`,
	} {
		if err := mint(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
