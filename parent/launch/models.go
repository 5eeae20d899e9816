package launch

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/raypher/raypher/parent/attend"
)

// providerKeys are the variables in which programs look for keys of providers of models. Where calls of models are metered an agent gets
// none of the caller's: with a key of its own it needs no budget. docs/gateway.md lists them too.
var providerKeys = []string{
	"AI21_API_KEY", "AI_GATEWAY_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AZURE_API_KEY",
	"AZURE_OPENAI_API_KEY", "CEREBRAS_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CODEX_API_KEY", "COHERE_API_KEY", "CO_API_KEY", "DASHSCOPE_API_KEY",
	"DEEPINFRA_API_KEY", "DEEPSEEK_API_KEY", "FIREWORKS_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_API_KEY",
	"GOOGLE_GENERATIVE_AI_API_KEY", "GROQ_API_KEY", "HF_TOKEN", "HUGGINGFACE_API_KEY", "HUGGING_FACE_HUB_TOKEN", "LITELLM_API_KEY",
	"MINIMAX_API_KEY", "MISTRAL_API_KEY", "MOONSHOT_API_KEY", "NVIDIA_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY",
	"PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY", "QWEN_API_KEY", "REPLICATE_API_TOKEN", "TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "VERTEX_API_KEY",
	"VOYAGE_API_KEY", "XAI_API_KEY", "ZAI_API_KEY", "ZHIPUAI_API_KEY",
}

// clients are how the programs of a kind of provider are told where it is and which key to show. base is what follows the provider's name
// in the URL. Anthropic's client takes a key or a token and warns of both.
var clients = []struct {
	kinds      []string // the first one that there is
	base       string
	urls, keys []string
}{
	{[]string{"openai", "openai-compatible"}, "/v1", []string{"OPENAI_BASE_URL", "OPENAI_API_BASE"}, []string{"OPENAI_API_KEY"}},
	{[]string{"anthropic"}, "", []string{"ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"}, []string{"ANTHROPIC_API_KEY"}},
	{[]string{"gemini"}, "", []string{"GOOGLE_GEMINI_BASE_URL", "GEMINI_API_BASE"}, []string{"GEMINI_API_KEY", "GOOGLE_API_KEY"}},
}

// Variables for what has no client of its own: http://HOST:PORT, after which the provider's name follows, and the key.
const (
	gatewayVariable = "RAYPHER_GATEWAY"
	keyVariable     = "RAYPHER_GATEWAY_KEY"
)

// drawHandle makes the placeholder API key of a run. The enclave knows it by its hash, which stands in the visa. Its form is one that
// clients take for a key.
func drawHandle() (key string, hash []byte) {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails (crypto/rand)
	key = "sk-raypher-" + hex.EncodeToString(secret)
	sum := sha256.Sum256([]byte(key))
	return key, sum[:]
}

// models is an environment for an agent whose calls of models are metered, and which of the caller's variables are not in it.
func models(env []string, g *attend.Gateway, key string) (own, removed []string) {
	set := map[string]string{gatewayVariable: "http://" + g.Address, keyVariable: key}
	for _, c := range clients {
		provider, ok := first(g.Providers, c.kinds)
		if !ok {
			continue
		}
		for _, name := range c.urls {
			set[name] = "http://" + g.Address + "/" + provider + c.base
		}
		for _, name := range c.keys {
			set[name] = key
		}
	}
	if past, proxied := pastProxy(env, g.Address); proxied {
		for _, name := range noProxy {
			set[name] = past
		}
	}
	known := keysIn(env)
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		_, replaced := set[name]
		switch {
		case slices.Contains(providerKeys, name), !replaced && holdsKey(value, known):
			if value != "" {
				removed = append(removed, name)
			}
		case !replaced:
			own = append(own, entry)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		own = append(own, name+"="+set[name])
	}
	slices.Sort(removed)
	return own, slices.Compact(removed)
}

// Variables by which clients find a proxy for HTTP, and learn what goes past it. Which of two spellings counts differs between clients.
var (
	proxies = []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"}
	noProxy = []string{"NO_PROXY", "no_proxy"}
)

// pastProxy is what goes past the caller's proxy, with the gateway: a proxy cannot reach the agent's loopback, and would read prompts.
func pastProxy(env []string, gateway string) (list string, proxied bool) {
	var past []string
	for _, entry := range env {
		switch name, value, _ := strings.Cut(entry, "="); {
		case value == "":
		case slices.Contains(proxies, name):
			proxied = true
		case slices.Contains(noProxy, name):
			past = append(past, value)
		}
	}
	host := gateway
	if at, err := netip.ParseAddrPort(gateway); err == nil {
		host = at.Addr().String()
	}
	return strings.Join(append(slices.Compact(past), host), ","), proxied
}

// Forms in which providers issue keys, wherever in a value: those of OpenAI, Anthropic and OpenRouter, of others who took the form over, of
// Google, Groq and xAI. None of words with hyphens, nor of a placeholder.
var issued = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(^|[^0-9A-Za-z])(sk-((proj|svcacct|admin|ant|or)-[0-9A-Za-z_-]{16}|[0-9A-Za-z]{20})|AIza[0-9A-Za-z_-]{35}|gsk_[0-9A-Za-z]{20}|xai-[0-9A-Za-z]{20})`)
})

// keyLetters is how long a key is at least: shorter ones say that there is none.
const keyLetters = 16

// keysIn are the caller's keys by the variables that are known to hold them.
func keysIn(env []string) (keys []string) {
	for _, entry := range env {
		if name, value, _ := strings.Cut(entry, "="); len(value) >= keyLetters && slices.Contains(providerKeys, name) {
			keys = append(keys, value)
		}
	}
	return keys
}

// holdsKey says whether a value is, or has in it, one of these keys or what has the form of one: a key may have any name.
func holdsKey(value string, known []string) bool {
	return issued().MatchString(value) || slices.ContainsFunc(known, func(key string) bool { return strings.Contains(value, key) })
}

// first is the provider of the first kind that there is: the one named as its kind, or the first by name.
func first(all []attend.Provider, kinds []string) (name string, ok bool) {
	for _, kind := range kinds {
		for _, p := range all {
			if p.Kind == kind && (!ok || p.Name == kind || name != kind && p.Name < name) {
				name, ok = p.Name, true
			}
		}
		if ok {
			return name, true
		}
	}
	return "", false
}

// modelsNote says in words what the agent's environment has of the gateway.
func modelsNote(g *attend.Gateway, removed []string) string {
	var names []string
	for _, p := range g.Providers {
		names = append(names, p.Name)
	}
	note := fmt.Sprintf("calls of models go to http://%s (%s) and are paid from the budget", g.Address, strings.Join(names, ", "))
	if len(removed) > 0 {
		note += "; removed from its environment: " + strings.Join(removed, ", ")
	}
	return note
}
