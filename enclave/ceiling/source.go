package ceiling

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/raypher/raypher/policy"
)

// MaxSource bounds the YAML form, in bytes.
const MaxSource = 1 << 20

// source is the YAML form that an operator writes and signs.
type source struct {
	Version     uint64        `yaml:"version"`
	TrustDomain string        `yaml:"trust_domain"`
	Grants      []sourceGrant `yaml:"grants"`
}

type sourceGrant struct {
	Namespace     string   `yaml:"namespace"`
	Agents        []string `yaml:"agents"`
	UIDs          []uint32 `yaml:"uids"`
	Users         []string `yaml:"users"`
	Binaries      []string `yaml:"binaries"`
	MaxTTLSeconds uint32   `yaml:"max_ttl_seconds"`
	OwnKey        bool     `yaml:"own_key"`
	TLSKeys       bool     `yaml:"tls_keys"`
	Permit        ast.Node `yaml:"permit"`
}

// ParseSource reads the YAML form. name is the file's name for messages.
func ParseSource(name string, text []byte) (*Ceiling, error) {
	if len(text) > MaxSource {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", name, len(text), MaxSource)
	}
	var s source
	if err := yaml.UnmarshalWithOptions(text, &s, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %s", name, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	c := &Ceiling{Version: s.Version, TrustDomain: s.TrustDomain}
	var problems []error
	for i, sg := range s.Grants {
		g, err := sg.grant(name)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: grant %d: %w", name, i+1, err))
			continue
		}
		c.Grants = append(c.Grants, g)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func (sg *sourceGrant) grant(name string) (*Grant, error) {
	g := &Grant{Namespace: sg.Namespace, Agents: sg.Agents, UIDs: sg.UIDs, Users: sg.Users, MaxTTLSeconds: sg.MaxTTLSeconds, OwnKey: sg.OwnKey, TLSKeys: sg.TLSKeys}
	for _, b := range sg.Binaries {
		digits, ok := strings.CutPrefix(b, "sha256:")
		raw, err := hex.DecodeString(digits)
		if !ok || err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("binaries: %.80q is not sha256:<64 hexadecimal digits>", b)
		}
		g.Binaries = append(g.Binaries, [sha256.Size]byte(raw))
	}
	if sg.Permit == nil {
		return nil, errors.New("permit is missing: write a policy under it")
	}
	// The permit is read as a file of its own, moved down to its lines in this one.
	above := strings.Repeat("\n", max(sg.Permit.GetToken().Position.Line-1, 0))
	permit, err := policy.Parse(name, []byte(above+sg.Permit.String()))
	if err != nil {
		return nil, err
	}
	g.Permit = permit
	return g, g.check()
}

// Source writes c in the YAML form. Parsing it again yields the same payload.
func (c *Ceiling) Source() ([]byte, error) {
	type grant struct {
		Namespace     string   `yaml:"namespace"`
		Agents        []string `yaml:"agents,flow"`
		UIDs          []uint32 `yaml:"uids,flow,omitempty"`
		Users         []string `yaml:"users,flow,omitempty"`
		Binaries      []string `yaml:"binaries,omitempty"`
		MaxTTLSeconds uint32   `yaml:"max_ttl_seconds,omitempty"`
		OwnKey        bool     `yaml:"own_key,omitempty"`
		TLSKeys       bool     `yaml:"tls_keys,omitempty"`
		Permit        any      `yaml:"permit"`
	}
	out := struct {
		Version     uint64  `yaml:"version"`
		TrustDomain string  `yaml:"trust_domain"`
		Grants      []grant `yaml:"grants"`
	}{Version: c.Version, TrustDomain: c.TrustDomain}
	for _, g := range c.Grants {
		var permit any
		if err := yaml.Unmarshal(g.Permit.Canonical(), &permit); err != nil {
			return nil, fmt.Errorf("show ceiling: %w", err)
		}
		og := grant{Namespace: g.Namespace, Agents: g.Agents, UIDs: g.UIDs, Users: g.Users, MaxTTLSeconds: g.MaxTTLSeconds, OwnKey: g.OwnKey, TLSKeys: g.TLSKeys, Permit: permit}
		for _, b := range g.Binaries {
			og.Binaries = append(og.Binaries, "sha256:"+hex.EncodeToString(b[:]))
		}
		out.Grants = append(out.Grants, og)
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("show ceiling: %w", err)
	}
	return text, nil
}
