package journal_test

import (
	"testing"

	"github.com/raypher/raypher/journal"
)

func TestProviderKey(t *testing.T) {
	good := journal.ProviderKey{Name: "openai", Action: journal.KeyRotated, Version: 3, Fingerprint: [4]byte{1, 2, 3, 4}, Operator: journal.Hash{5}}
	payload, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := journal.DecodeProviderKey(payload); err != nil || *got != good {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := journal.DecodeProviderKey(append(payload, 0)); err == nil {
		t.Error("bytes behind the end were taken")
	}
	for name, change := range map[string]func(*journal.ProviderKey){
		"no name":     func(p *journal.ProviderKey) { p.Name = "" },
		"a line":      func(p *journal.ProviderKey) { p.Name = "a\nb" },
		"no action":   func(p *journal.ProviderKey) { p.Action = 0 },
		"fourth":      func(p *journal.ProviderKey) { p.Action = 4 },
		"version nil": func(p *journal.ProviderKey) { p.Version = 0 },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}
