package ceiling

import (
	"strings"
	"testing"
)

const keysSource = `
version: 1
trust_domain: prod.example.org
grants:
  - namespace: prod
    agents: [payer]
    uids: [1000]
    own_key: true
    tls_keys: true
    permit: {mode: enforce}
  - namespace: "*"
    agents: ["*"]
    permit: {mode: enforce}
`

// Keys are granted by name, survive the bundle, and are closed where nothing grants them.
func TestKeysOfGrants(t *testing.T) {
	key := operators(t)["Ed25519"]
	c, err := Open(sign(t, fromSource(t, keysSource), key), [][]byte{public(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Source()
	if err != nil {
		t.Fatal(err)
	}
	if again := fromSource(t, string(text)); string(again.payload()) != string(c.payload()) {
		t.Errorf("the source says something else:\n%s", text)
	}
	for namespace, want := range map[string]bool{"prod": true, "dev": false, "": false, "*": false} {
		if c.OwnKey(namespace) != want {
			t.Errorf("namespace %q: own key %v, want %v", namespace, !want, want)
		}
	}
	payer := Request{Namespace: "prod", Name: "payer", UID: 1000}
	for _, r := range []struct {
		request Request
		want    string // in the error; empty: granted
	}{
		{payer, ""},
		{Request{Namespace: "prod", Name: "payer", UID: 1001}, "user"},
		{Request{Namespace: "prod", Name: "coder", UID: 1000}, "grant 2: is for this agent and does not say tls_keys: true"},
		{Request{Namespace: "dev", Name: "payer", UID: 1000}, "does not say tls_keys: true"},
	} {
		if err := c.TLSKeys(r.request); (err == nil) != (r.want == "") || err != nil && !strings.Contains(err.Error(), r.want) {
			t.Errorf("%+v: error %v, want %q", r.request, err, r.want)
		}
	}
	if old := fromSource(t, source1); old.OwnKey("dev") || old.TLSKeys(Request{Namespace: "dev", Name: "coder", UID: 1000}) == nil {
		t.Error("a ceiling that says nothing of keys grants them")
	}
}

// A pattern would let whoever names namespaces have keys made without end.
func TestKeysOfPatterns(t *testing.T) {
	for text, want := range map[string]string{
		strings.Replace(keysSource, "namespace: prod", `namespace: "prod*"`, 1): "is a pattern",
		strings.Replace(keysSource, "namespace: prod", `namespace: "p?"`, 1):    "is a pattern",
		ownKeys(MaxOwnKeys + 1): "at most 8",
	} {
		if _, err := ParseSource("c", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	fromSource(t, ownKeys(MaxOwnKeys))
}

func ownKeys(n int) string {
	text := "version: 1\ntrust_domain: x\ngrants:\n"
	for i := range n {
		text += "  - {namespace: n" + string(rune('a'+i)) + ", agents: [a], own_key: true, permit: {mode: enforce}}\n"
	}
	return text
}
