package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/raypher/raypher/enclave/gateway/dialect"
)

// handle returns the placeholder key that a client sends where its kind of provider wants the key.
func handle(r *http.Request) string {
	for _, name := range []string{"X-Api-Key", "X-Goog-Api-Key"} {
		if key := r.Header.Get(name); key != "" {
			return key
		}
	}
	if scheme, key, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(key)
	}
	return r.URL.Query().Get("key")
}

// Headers that go to a provider. Others stay: those of the connection (RFC 9110, section 7.6.1), what would name another account, and what
// nobody asked for. The last ones are prefixes.
var (
	passedUp       = []string{"Accept", "User-Agent", "Anthropic-Version", "Anthropic-Beta", "Anthropic-Dangerous-Direct-Browser-Access", "Openai-Beta"}
	passedUpPrefix = []string{"X-Stainless-"}
)

func upstreamHeader(kind dialect.Kind, from http.Header, secret string) http.Header {
	to := make(http.Header)
	for name, values := range from {
		if slices.Contains(passedUp, name) || slices.ContainsFunc(passedUpPrefix, func(p string) bool { return strings.HasPrefix(name, p) }) {
			to[name] = values
		}
	}
	to.Set("Accept-Encoding", "identity")      // it is metered
	to.Set("Content-Type", "application/json") // as it was read: another alphabet would have other quotation marks
	switch kind {
	case dialect.Anthropic:
		to.Set("X-Api-Key", secret)
	case dialect.Gemini:
		to.Set("X-Goog-Api-Key", secret)
	default:
		to.Set("Authorization", "Bearer "+secret)
	}
	return to
}

// longContext is the window that betas of Anthropic whose names begin so give a model that has a smaller one without them.
const (
	longContext     = 1_000_000
	longContextBeta = "context-1m"
)

// keepWindow takes betas out of headers that make a model's window larger than the price list says: what is opaque is held as that window.
func keepWindow(header http.Header, window uint64) {
	if window >= longContext {
		return
	}
	var kept []string
	for _, line := range header["Anthropic-Beta"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.HasPrefix(strings.ToLower(name), longContextBeta) {
				kept = append(kept, name)
			}
		}
	}
	if delete(header, "Anthropic-Beta"); len(kept) > 0 {
		header["Anthropic-Beta"] = []string{strings.Join(kept, ",")}
	}
}

// Headers of an answer that are about its connection, or would let a provider set state at the client for the gateway's own name.
var keptDown = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "Content-Length"}

// copyHeader hands headers of an answer on, but those with the provider's key. Its length is not among them: what is handed on may be shorter.
func copyHeader(to, from http.Header, secret string) {
	for name, values := range from {
		if !slices.Contains(keptDown, name) && !slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, secret) }) {
			to[name] = values
		}
	}
}

// What a query may say, and where it goes on; keys do not.
var queries = map[string]bool{"alt": true, "beta": true, "limit": true, "after_id": true, "before_id": true, "pageSize": true, "pageToken": true, "key": false}

// target is where a call goes.
func target(kind dialect.Kind, base, path string, query url.Values) (*url.URL, error) {
	// OpenAI's base URLs have the version at their end, and clients know it.
	if kind != dialect.Gemini && strings.HasSuffix(base, "/v1") {
		path = strings.TrimPrefix(path, "/v1")
	}
	u, err := url.Parse(base + path)
	if err != nil {
		return nil, err
	}
	for name := range query {
		passes, known := queries[name]
		if !known {
			return nil, &dialect.Refusal{Reason: dialect.Invalid, Message: fmt.Sprintf("the query %.80q is not known here, and may cost: leave it out", name)}
		}
		if !passes {
			query.Del(name)
		}
	}
	u.RawQuery = query.Encode()
	return u, nil
}
