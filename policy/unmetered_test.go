package policy

import (
	"slices"
	"strings"
	"testing"
)

// TestReaches: by which rules a service can be reached, found without asking any name server.
func TestReaches(t *testing.T) {
	for _, tt := range []struct{ network, host, rule string }{
		{"egress: [api.example.com]", "api.example.com", "api.example.com"},
		{"egress: [api.example.com:443]", "API.example.com", "api.example.com:443"},
		{"egress: [api.example.com:80]", "api.example.com", ""},
		{"egress: [\"*.example.com\"]", "api.example.com", "*.example.com"},
		{"egress: [other.example.com]", "api.example.com", ""},
		{"egress: [private api.example.com:443]", "api.example.com", "private api.example.com:443"},
		{"require_approval: [\"*.example.com:443\"]", "api.example.com", "*.example.com:443"},
		{"default_action: allow", "api.example.com", "default_action: allow"},
		{"egress: [0.0.0.0/0]", "api.example.com", "0.0.0.0/0"},
		{"egress: [\"[::/0]:443\"]", "api.example.com", "[::/0]:443"},
		{"egress: [0.0.0.0/0:80]", "api.example.com", ""},
		{"egress: [128.0.0.0/1]", "api.example.com", "128.0.0.0/1"},
		{"egress: [10.0.0.0/8]", "api.example.com", ""},
		{"egress: [10.0.0.0/7]", "api.example.com", "10.0.0.0/7"},
		{"egress: [\"fd00::/8\"]", "api.example.com", ""},
		{"egress: [\"2000::/3\"]", "api.example.com", "2000::/3"},
		{"egress: [203.0.113.0/24]", "api.example.com", ""},
		{"egress: [203.0.113.0/24]", "203.0.113.7", "203.0.113.0/24"},
		{"egress: [203.0.113.0/24]", "203.0.114.7", ""},
		{"{}", "api.example.com", ""},
		{"egress: [\"64:ff9b::/96\"]", "api.example.com", "64:ff9b::/96"},
		{"egress: [\"64:ff9b::203.0.113.0/120\"]", "203.0.113.7", "64:ff9b::cb00:7100/120"},
		{"egress: [10.0.0.0/9, 10.128.0.0/9, 172.16.0.0/12]", "api.example.com", ""},
		{"egress: [128.0.0.0/9, \"128.128.0.0/9:80\"]", "api.example.com", ""},
		{"egress: [128.0.0.0/9, 128.128.0.0/9]", "api.example.com", "128.128.0.0/9"},
		{"egress: [\"2001:4860::/33\", \"2001:4860:8000::/33\"]", "api.example.com", "2001:4860::/33"},
		{"egress: [api.example.com.]", "api.example.com", "api.example.com"},
	} {
		p := parsed(t, "network:\n  "+tt.network+"\n")
		rule, ok := p.Network.Reaches(tt.host, 443)
		if rule != tt.rule || ok != (tt.rule != "") {
			t.Errorf("%s reaches %s by %q, want %q", tt.network, tt.host, rule, tt.rule)
		}
	}
	if _, ok := (*Network)(nil).Reaches("api.example.com", 443); ok {
		t.Error("no section reaches a host")
	}
}

// TestUnmeteredNarrows: to go past the gateway has to be granted by each level.
func TestUnmeteredNarrows(t *testing.T) {
	sections := map[Unmetered]string{"": "network: {egress: [a.com]}", UnmeteredRefuse: "network: {unmetered: refuse, egress: [a.com]}", UnmeteredAllow: "network: {unmetered: allow, egress: [a.com]}"}
	for outer, outerText := range sections {
		for inner, innerText := range sections {
			got, err := Narrow(parsed(t, outerText), parsed(t, innerText))
			if wider := inner == UnmeteredAllow && outer != UnmeteredAllow; wider != (err != nil) {
				t.Errorf("%q below %q: %v", inner, outer, err)
				continue
			}
			if err == nil && (got.Network.Unmetered == UnmeteredAllow) != (inner == UnmeteredAllow) {
				t.Errorf("%q below %q: %q", inner, outer, got.Network.Unmetered)
			}
		}
	}
	if inherited, err := Narrow(parsed(t, sections[UnmeteredAllow]), parsed(t, "namespace: default")); err != nil || inherited.Network.Unmetered != UnmeteredAllow {
		t.Errorf("without a section of its own: %+v, %v", inherited, err)
	}
	if string(parsed(t, sections[UnmeteredRefuse]).Canonical()) != string(parsed(t, sections[""]).Canonical()) {
		t.Error("unmetered: refuse changes the hash")
	}
	again, err := ParseCanonical(parsed(t, sections[UnmeteredAllow]).Canonical())
	if err != nil || again.Network.Unmetered != UnmeteredAllow {
		t.Errorf("the canonical form: %+v, %v", again, err)
	}
	if _, err := Parse("p.yaml", []byte("network:\n  unmetered: perhaps\n")); err == nil || !strings.Contains(err.Error(), "p.yaml:2:14") {
		t.Errorf("a word that is none: %v", err)
	}
	told := parsed(t, sections[UnmeteredAllow]).Explain().Lines
	if !slices.ContainsFunc(told, func(l Line) bool { return strings.Contains(l.What, "unmetered") }) {
		t.Errorf("explain: %+v", told)
	}
}
