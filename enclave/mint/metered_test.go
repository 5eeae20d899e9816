package mint

import (
	"context"
	"errors"
	"strings"
	"testing"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// TestUnmeteredIsRefused: where a budget is kept, a permit that reaches a provider past the gateway is granted only when each level says so.
func TestUnmeteredIsRefused(t *testing.T) {
	permit := `
      filesystem: {read: ["/usr/**", "~/**"]}
      network: {default_action: allow, egress: ["10.0.0.0/8"], UNMETERED}`
	under := func(unmetered string) string {
		return "version: 7\ntrust_domain: raypher.local\ngrants:\n  - namespace: dev\n    agents: [\"build-*\"]\n    permit:\n      mode: permissive" +
			strings.Replace(permit, "UNMETERED", unmetered, 1)
	}
	services := &Services{Hash: [32]byte{1}, Of: []Service{{Name: "main", Host: "api.example.com", Port: 443}}}
	const granted = "unmetered: allow"
	for _, tt := range []struct {
		name, ceiling, policy string
		services              *Services
		want                  string // part of the error; empty: granted
	}{
		{"elsewhere", granted, "network: {egress: [other.example.com]}", services, ""},
		{"by name", granted, "network: {egress: [api.example.com]}", services, `"api.example.com" reaches provider main`},
		{"by every name", granted, `network: {egress: ["*.example.com:443"]}`, services, `"*.example.com:443" reaches provider main`},
		{"by every address", granted, "network: {default_action: allow}", services, "default_action: allow"},
		{"where no budget is kept", granted, "network: {egress: [api.example.com]}", nil, ""},
		{"where nothing costs", granted, "network: {egress: [api.example.com]}", &Services{}, ""},
		{"as each level says", granted, "network: {unmetered: allow, egress: [api.example.com]}", services, ""},
		{"as the ceiling does not say", "unmetered: refuse", "network: {unmetered: allow, egress: [api.example.com]}", services, "network.unmetered"},
		{"in a mode that refuses nothing", granted, "mode: audit", services, "mode audit refuses nothing"},
		{"in such a mode, as each level says", granted, "mode: audit\nnetwork: {unmetered: allow}", services, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := newMintUnder(t, under(tt.ceiling), &startconf.Configuration{}, nil)
			m.opts.Services = func() *Services { return tt.services }
			r := goodRequest(t)
			r.Policy = canonical(t, tt.policy)
			_, err := m.Mint(context.Background(), r)
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (!errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestANewBudgetDecidesAgain: what was granted before a budget was kept is not granted from memory after it.
func TestANewBudgetDecidesAgain(t *testing.T) {
	m, _ := newMint(t, &startconf.Configuration{}, nil)
	var services *Services
	m.opts.Services = func() *Services { return services }
	r := goodRequest(t)
	mint := func(r *enclavev1.MintRequest) error {
		_, err := m.Mint(context.Background(), r)
		return err
	}
	if err := mint(r); err != nil {
		t.Fatal(err)
	}
	services = &Services{Hash: [32]byte{1}, Of: []Service{{Name: "main", Host: "example.com", Port: 443}}}
	if err := mint(r); !errors.Is(err, ErrDenied) {
		t.Errorf("example.com is a provider now: %v", err)
	}
}
