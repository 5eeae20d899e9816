package ceiling

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/raypher/raypher/internal/strictyaml"
	"github.com/raypher/raypher/policy"
)

// MaxSource bounds the YAML form, in bytes.
const MaxSource = 1 << 20

// ParseSource reads the YAML form that an operator writes and signs. name is the file's name for messages. It is as strict as
// policies are, and the error, of type policy.Errors, has all mistakes at once with their places.
func ParseSource(name string, text []byte) (*Ceiling, error) {
	r, document, err := strictyaml.Load(strictyaml.File{
		Name: name, What: "ceiling", Empty: "write version, trust_domain and grants", Limit: MaxSource,
	}, text)
	if err != nil {
		return nil, err
	}
	s := source{r}
	c := s.ceiling(document)
	for _, f := range c.faults() {
		s.Report(f.at, f.fault)
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// source turns YAML nodes into a Ceiling.
type source struct{ *strictyaml.Reader }

type fields = map[string]func(strictyaml.Place, *strictyaml.Node)

func (s source) ceiling(n *strictyaml.Node) *Ceiling {
	c := &Ceiling{}
	s.Fields("", n, fields{
		"version": func(at strictyaml.Place, n *strictyaml.Node) {
			var version *uint64
			if s.Number(at, n, &version); version != nil {
				c.Version = *version
			}
		},
		"trust_domain":        func(at strictyaml.Place, n *strictyaml.Node) { s.Text(at, n, &c.TrustDomain) },
		"require_attestation": func(at strictyaml.Place, n *strictyaml.Node) { s.Truth(at, n, &c.RequireAttestation) },
		"grants": func(at strictyaml.Place, n *strictyaml.Node) {
			s.Each(at, n, func(at strictyaml.Place, n *strictyaml.Node) {
				if len(c.Grants) <= MaxGrants { // one more is what the bound refuses
					c.Grants = append(c.Grants, s.grant(at, n))
				}
			})
		},
	})
	return c
}

func (s source) grant(at strictyaml.Place, n *strictyaml.Node) *Grant {
	g := &Grant{}
	s.Fields(at, n, fields{
		"namespace": func(at strictyaml.Place, n *strictyaml.Node) { s.Text(at, n, &g.Namespace) },
		"agents":    func(at strictyaml.Place, n *strictyaml.Node) { s.List(at, n, &g.Agents, strictyaml.Items{}) },
		"users":     func(at strictyaml.Place, n *strictyaml.Node) { s.List(at, n, &g.Users, strictyaml.Items{}) },
		"uids":      func(at strictyaml.Place, n *strictyaml.Node) { g.UIDs = s.uids(at, n) },
		"binaries":  func(at strictyaml.Place, n *strictyaml.Node) { g.Binaries = s.binaries(at, n) },
		"max_ttl_seconds": func(at strictyaml.Place, n *strictyaml.Node) {
			var seconds *uint64
			if s.Number(at, n, &seconds); seconds != nil {
				g.MaxTTLSeconds = uint32(min(*seconds, math.MaxUint32)) // too much is too much
			}
		},
		"own_key":  func(at strictyaml.Place, n *strictyaml.Node) { s.Truth(at, n, &g.OwnKey) },
		"tls_keys": func(at strictyaml.Place, n *strictyaml.Node) { s.Truth(at, n, &g.TLSKeys) },
		"permit": func(at strictyaml.Place, n *strictyaml.Node) {
			if g.Permit = policy.ReadSection(s.Reader, n); g.Permit == nil {
				g.Permit = &policy.Policy{} // what is wrong with it was said
			}
		},
	})
	return g
}

func (s source) uids(at strictyaml.Place, n *strictyaml.Node) (uids []uint32) {
	var texts []string
	s.List(at, n, &texts, strictyaml.Items{Numbers: true})
	for i, text := range texts {
		uid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			s.Report(at.Item(i), strictyaml.Faultf("write the number of a user, as id -u prints it", "%q is no uid", strictyaml.Shorten(text)))
			continue
		}
		uids = append(uids, uint32(uid))
	}
	return uids
}

func (s source) binaries(at strictyaml.Place, n *strictyaml.Node) (hashes [][sha256.Size]byte) {
	var texts []string
	s.List(at, n, &texts, strictyaml.Items{})
	for i, text := range texts {
		digits, ok := strings.CutPrefix(text, "sha256:")
		raw, err := hex.DecodeString(digits)
		if !ok || err != nil || len(raw) != sha256.Size {
			s.Report(at.Item(i), strictyaml.Faultf("write what sha256sum prints of the program, after sha256:", "%q is not sha256:<64 hexadecimal digits>", strictyaml.Shorten(text)))
			continue
		}
		hashes = append(hashes, [sha256.Size]byte(raw))
	}
	return hashes
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
		Attestation bool    `yaml:"require_attestation,omitempty"`
		Grants      []grant `yaml:"grants"`
	}{Version: c.Version, TrustDomain: c.TrustDomain, Attestation: c.RequireAttestation}
	for _, g := range c.Grants {
		var permit any
		if err := json.Unmarshal(g.Permit.Canonical(), &permit); err != nil {
			return nil, fmt.Errorf("show ceiling: %w", err)
		}
		og := grant{
			Namespace: g.Namespace, Agents: g.Agents, UIDs: g.UIDs, Users: g.Users, MaxTTLSeconds: g.MaxTTLSeconds,
			OwnKey: g.OwnKey, TLSKeys: g.TLSKeys, Permit: wholeNumbers(permit),
		}
		for _, b := range g.Binaries {
			og.Binaries = append(og.Binaries, "sha256:"+hex.EncodeToString(b[:]))
		}
		out.Grants = append(out.Grants, og)
	}
	text, err := yaml.Dump(out, yaml.WithIndent(2))
	if err != nil {
		return nil, fmt.Errorf("show ceiling: %w", err)
	}
	return text, nil
}

// wholeNumbers turns the numbers of a permit, which are all whole, into what YAML writes without a point.
func wholeNumbers(value any) any {
	switch v := value.(type) {
	case float64:
		return uint64(v)
	case map[string]any:
		for key, inner := range v {
			v[key] = wholeNumbers(inner)
		}
	}
	return value
}
