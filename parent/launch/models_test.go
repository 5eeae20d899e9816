package launch

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/parent/attend"
)

// TestEnvironmentOfModels: an agent is told where the gateway is in the words of each client, shows the placeholder key, and inherits no
// key of a provider.
func TestEnvironmentOfModels(t *testing.T) {
	const at, key = "127.0.0.1:50052", "sk-raypher-0"
	of := func(list ...string) (all []attend.Provider) {
		for _, entry := range list {
			name, kind, _ := strings.Cut(entry, "=")
			all = append(all, attend.Provider{Name: name, Kind: kind})
		}
		return all
	}
	for _, c := range []struct {
		name      string
		providers []attend.Provider
		env       []string
		want      []string // besides RAYPHER_GATEWAY and its key
		removed   []string
	}{
		{
			"each kind in its client's words", of("a=anthropic", "g=gemini", "o=openai"), []string{"HOME=/h", "PATH=/bin"},
			[]string{
				"HOME=/h", "PATH=/bin", "ANTHROPIC_API_BASE=http://127.0.0.1:50052/a", "ANTHROPIC_API_KEY=sk-raypher-0", "ANTHROPIC_BASE_URL=http://127.0.0.1:50052/a",
				"GEMINI_API_BASE=http://127.0.0.1:50052/g", "GEMINI_API_KEY=sk-raypher-0", "GOOGLE_API_KEY=sk-raypher-0", "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:50052/g",
				"OPENAI_API_BASE=http://127.0.0.1:50052/o/v1", "OPENAI_API_KEY=sk-raypher-0", "OPENAI_BASE_URL=http://127.0.0.1:50052/o/v1",
			}, nil,
		},
		{
			"the caller's keys go, also those of kinds that there are not", of("anthropic=anthropic"),
			[]string{"OPENAI_API_KEY=sk-real", "ANTHROPIC_AUTH_TOKEN=real", "ANTHROPIC_API_KEY=sk-ant-real", "CLAUDE_CODE_OAUTH_TOKEN=real", "MISTRAL_API_KEY=", "MISTRAL=x"},
			[]string{"MISTRAL=x", "ANTHROPIC_API_BASE=http://127.0.0.1:50052/anthropic", "ANTHROPIC_API_KEY=sk-raypher-0", "ANTHROPIC_BASE_URL=http://127.0.0.1:50052/anthropic"},
			[]string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY"},
		},
		{
			"keys go by what they are, whatever names they have", of("anthropic=anthropic"),
			[]string{
				"MISTRAL_API_KEY=0123456789abcdef", "MY_KEY=0123456789abcdef", "HEADERS=authorization: Bearer 0123456789abcdef", "SHORT=0123",
				"OPENAI_KEY=sk-proj-" + strings.Repeat("a1-_", 30), `CONFIG={"apiKey":"sk-ant-api03-` + strings.Repeat("x", 40) + `"}`, "openai_api_key=sk-" + strings.Repeat("0f", 16),
				"GEMINI=AIza" + strings.Repeat("x", 35), "GROQ=gsk_" + strings.Repeat("x", 40), "XAI=xai-" + strings.Repeat("x", 40), "ROUTER=sk-or-v1-" + strings.Repeat("0f", 32),
				"TASK=task-" + strings.Repeat("a", 30), "FOLDER=/opt/sk-learn-of-a-very-long-name", "RUN=sk-raypher-" + strings.Repeat("0f", 32), "STRIPE=sk_live_" + strings.Repeat("x", 30),
			},
			[]string{
				"SHORT=0123", "TASK=task-" + strings.Repeat("a", 30), "FOLDER=/opt/sk-learn-of-a-very-long-name", "RUN=sk-raypher-" + strings.Repeat("0f", 32), "STRIPE=sk_live_" + strings.Repeat("x", 30),
				"ANTHROPIC_API_BASE=http://127.0.0.1:50052/anthropic", "ANTHROPIC_API_KEY=sk-raypher-0", "ANTHROPIC_BASE_URL=http://127.0.0.1:50052/anthropic",
			},
			[]string{"CONFIG", "GEMINI", "GROQ", "HEADERS", "MISTRAL_API_KEY", "MY_KEY", "OPENAI_KEY", "ROUTER", "XAI", "openai_api_key"},
		},
		{
			"the provider that is named as its kind", of("aaa=openai", "openai=openai", "zzz=openai-compatible"), []string{"OPENAI_BASE_URL=https://api.openai.com/v1"},
			[]string{"OPENAI_API_BASE=http://127.0.0.1:50052/openai/v1", "OPENAI_API_KEY=sk-raypher-0", "OPENAI_BASE_URL=http://127.0.0.1:50052/openai/v1"}, nil,
		},
		{
			"the gateway goes past a proxy, whichever spelling a client reads", of(), []string{"https_proxy=http://p:1", "HTTP_PROXY=http://p:1", "no_proxy=a.example,b.example"},
			[]string{"https_proxy=http://p:1", "HTTP_PROXY=http://p:1", "NO_PROXY=a.example,b.example,127.0.0.1", "no_proxy=a.example,b.example,127.0.0.1"}, nil,
		},
		{
			"without a proxy nothing is said of one", of(), []string{"no_proxy=a.example", "HTTP_PROXY="}, []string{"no_proxy=a.example", "HTTP_PROXY="}, nil,
		},
		{
			"a compatible one where there is no other", of("house=openai-compatible", "annex=openai-compatible"), nil,
			[]string{"OPENAI_API_BASE=http://127.0.0.1:50052/annex/v1", "OPENAI_API_KEY=sk-raypher-0", "OPENAI_BASE_URL=http://127.0.0.1:50052/annex/v1"}, nil,
		},
	} {
		got, removed := models(c.env, &attend.Gateway{Address: at, Providers: c.providers}, key)
		want := append(slices.Clone(c.want), "RAYPHER_GATEWAY=http://"+at, "RAYPHER_GATEWAY_KEY="+key)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || !slices.Equal(removed, c.removed) {
			t.Errorf("%s:\n%q, want\n%q; removed %q, want %q", c.name, got, want, removed, c.removed)
		}
	}
}

// The key is one that nobody can guess, and its hash is what the visa has.
func TestHandle(t *testing.T) {
	key, hash := drawHandle()
	other, _ := drawHandle()
	if sum := sha256.Sum256([]byte(key)); hex.EncodeToString(sum[:]) != hex.EncodeToString(hash) || key == other || len(key) != len("sk-raypher-")+64 {
		t.Errorf("%q, %x, then %q", key, hash, other)
	}
}

// The page that operators read names every variable that is removed or set.
func TestTheVariablesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	names := append(slices.Clone(providerKeys), gatewayVariable, keyVariable)
	for _, c := range clients {
		names = slices.Concat(names, c.urls, c.keys)
	}
	for _, name := range names {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/gateway.md does not name %s", name)
		}
	}
	if !slices.IsSorted(providerKeys) {
		t.Error("the list is not in order")
	}
}
