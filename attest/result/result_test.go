package result_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/journal"
)

var now = time.Unix(1_800_000_000, 0).UTC()

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sample(t testing.TB) *result.Result {
	t.Helper()
	key, err := journal.NewKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &result.Result{
		Issuer: "controller", Build: "v1", TrustDomain: "raypher.local", Host: "rack-7", Tier: journal.TierTPM, Key: key, Epoch: journal.EpochID{1, 2},
		Configuration: journal.Hash{3}, Measurements: "rack", GoldenVersion: 4, CeilingVersion: 5, CeilingHash: strings.Repeat("ab", 32),
		Nonce: []byte("0123456789abcdef"), Issued: now, Expires: now.Add(10 * time.Minute), Instance: true,
	}
}

func TestSignAndVerify(t *testing.T) {
	key, other := newKey(t), newKey(t)
	want := sample(t)
	token, err := result.Sign(want, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := result.Verify(token, []*ecdsa.PublicKey{&other.PublicKey, &key.PublicKey}, now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if got.Key.ID() != want.Key.ID() {
		t.Error("another key")
	}
	got.Key = want.Key
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got.Subject() != "spiffe://raypher.local/host/rack-7" {
		t.Error(got.Subject())
	}
}

func TestRefusals(t *testing.T) {
	key, other := newKey(t), newKey(t)
	token, err := result.Sign(sample(t), key)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var good map[string]any
	if err := json.Unmarshal(payload, &good); err != nil {
		t.Fatal(err)
	}
	// resigned is the token with one claim changed and a good signature.
	resigned := func(claim string, value any) string {
		c := maps.Clone(good)
		c[claim] = value
		return signed(t, key, jose.ES256, "eat+jwt", c)
	}
	for _, c := range []struct {
		name  string
		token string
		at    time.Time
		want  error
	}{
		{"signed by another key", signed(t, other, jose.ES256, "eat+jwt", good), now, result.ErrSignature},
		{"changed payload", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), "rack-7", "rack-8", 1))) + "." + parts[2], now, result.ErrSignature},
		{"no signature", parts[0] + "." + parts[1] + ".", now, result.ErrSignature},
		{"alg none", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"eat+jwt"}`)) + "." + parts[1] + ".", now, result.ErrMalformed},
		{"a JWT of another kind", signed(t, key, jose.ES256, "JWT", good), now, result.ErrMalformed},
		{"nothing", "", now, result.ErrMalformed},
		{"too large", token + strings.Repeat("A", result.MaxSize), now, result.ErrMalformed},
		{"ended", token, now.Add(10 * time.Minute), result.ErrExpired},
		{"not begun", token, now.Add(-result.ClockSkew - time.Second), result.ErrExpired},
		{"another profile", resigned("eat_profile", "x"), now, result.ErrMalformed},
		{"does not affirm", resigned("submods", map[string]any{"enclave": map[string]any{"ear_status": "warning"}}), now, result.ErrMalformed},
		{"affirms nothing", resigned("submods", map[string]any{}), now, result.ErrMalformed},
		{"one part not affirmed", resigned("submods", map[string]any{"enclave": map[string]any{"ear_status": "affirming"}, "instance": map[string]any{"ear_status": "none"}}), now, result.ErrMalformed},
		{"no host", resigned("sub", "spiffe://raypher.local/ns/x"), now, result.ErrMalformed},
		{"a path for a host", resigned("sub", "spiffe://raypher.local/host/a/b"), now, result.ErrMalformed},
		{"no key", resigned("cnf", map[string]any{}), now, result.ErrMalformed},
		{"no epoch", resigned("raypher", map[string]any{}), now, result.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := result.Verify(c.token, []*ecdsa.PublicKey{&key.PublicKey}, c.at); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func signed(t *testing.T, key *ecdsa.PrivateKey, alg jose.SignatureAlgorithm, typ string, claims any) string {
	t.Helper()
	public := jose.JSONWebKey{Key: &key.PublicKey}
	sum, err := public.Thumbprint(5) // crypto.SHA256
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: base64.RawURLEncoding.EncodeToString(sum)}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestJWKS(t *testing.T) {
	key := newKey(t)
	text, err := result.JWKS([]*ecdsa.PublicKey{&key.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) != 1 || !set.Keys[0].Valid() || !set.Keys[0].IsPublic() || strings.Contains(string(text), `"d"`) {
		t.Errorf("%s %v", text, err)
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	token, err := result.Sign(sample(f), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := result.Verify(text, []*ecdsa.PublicKey{&key.PublicKey}, now); err == nil && (r.Key == nil || r.Host != "rack-7") {
			t.Errorf("accepted %q", text)
		}
	})
}
