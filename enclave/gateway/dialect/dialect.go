// Package dialect reads the HTTP protocols of LLM providers as far as money needs it: how many tokens a request can cost at
// most, and how many its answer says were used. It knows no prices and no network: package gateway asks it before a request
// leaves and while its answer passes.
//
// It fails closed. Whatever it does not know, an endpoint, a member of the request that may cost, a kind of content, a tool that
// runs at the provider and is charged by use, is a Refusal; an answer without usage leaves no Usage, and its reservation stays.
// Requests are JSON as RFC 8259 has it, with each name once and in UTF-8 (RFC 7493): two readers of the same bytes must not
// disagree on what the model is.
//
// Nothing here is safe for concurrent use, but different calls may be read at once.
package dialect

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// MaxBody is the most bytes of a request, what Anthropic takes at most; others take less.
const MaxBody = 32 << 20

// Kind is whose protocol a provider speaks.
type Kind string

// The kinds of provider.
const (
	OpenAI           Kind = "openai"            // chat completions and responses
	Anthropic        Kind = "anthropic"         // messages
	Gemini           Kind = "gemini"            // generateContent
	OpenAICompatible Kind = "openai-compatible" // chat completions of another server
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{OpenAI, Anthropic, Gemini, OpenAICompatible} }

// Limits are what a provider holds a model to, of the table of prices.
type Limits struct {
	Window int64 // tokens of input and output together
	Output int64 // tokens of one answer
	// NoLongCache: nobody has said what it costs to write to a cache that is kept for longer than the shortest time.
	NoLongCache bool
}

// Bound is the most tokens that a request can be charged for.
type Bound struct {
	Input  int64 // the model's whole window where the request does not bound it: see Request.Opaque
	Output int64 // of all choices together, reasoning included
	// CacheWrite: input may be charged at the rate of writing it to a cache, which is higher.
	CacheWrite bool
}

// Usage is what an answer says was used, in tokens. The parts are disjoint, but Reasoning, which is a part of Output.
type Usage struct {
	Input        int64 // neither read from a cache nor written to one
	CacheRead    int64
	CacheWrite   int64 // kept for 5 minutes, or as long as the provider likes
	CacheWrite1h int64 // kept for an hour
	Output       int64
	Reasoning    int64
}

// Total returns all tokens.
func (u Usage) Total() int64 {
	return u.Input + u.CacheRead + u.CacheWrite + u.CacheWrite1h + u.Output
}

// Request is a request that was understood.
type Request struct {
	Model  string // empty for an endpoint that no model is charged for
	Free   bool   // the provider charges nothing: a list of models, a count of tokens
	Stream bool
	// Opaque says what of the request has more tokens than bytes tell ("an image"); empty: nothing.
	Opaque string

	input      int64 // most tokens of what is text
	output     int64 // most tokens of each choice; 0: the request does not say
	beyond     int64 // tokens of thinking, which a limit that is not larger may not hold
	ignorable  bool  // some servers do not know the limit by its name, and answer for as long as the model likes
	choices    int64
	tools      int64  // what the description of every tool is in bytes
	longCache  string // what asks for a cache that is kept for long; empty: nothing
	cacheWrite bool
	body       *object
	limit      []string // path of the member that holds output down, set where it is missing
	wantsUsage bool     // the client asked for the chunk with usage itself
	protocol   protocol
}

// Call is a request as it is to be sent.
type Call struct {
	Model  string
	Stream bool
	Body   []byte
	Bound  Bound

	protocol protocol
	hide     bool // the chunk with usage was not asked for by the client
}

// protocol is one endpoint's way to say things.
type protocol interface {
	// read understands a body whose model is in the path, or empty.
	read(r *Request, body *object) error
	// usage looks for usage in one JSON object: a whole answer, or an event of a stream. last: what it found is final.
	usage(u *Usage, message []byte) (found, last bool, err error)
}

// route is an endpoint of a kind. Its path may have one "*", for a segment without "/".
type route struct {
	method, path string
	free         bool
	stream       bool // the path alone says so
	protocol     protocol
}

func routes(kind Kind) []route {
	switch kind {
	case OpenAI:
		return []route{
			{method: http.MethodPost, path: "/v1/chat/completions", protocol: chat{official: true}},
			{method: http.MethodPost, path: "/v1/responses", protocol: responses{}},
			{method: http.MethodGet, path: "/v1/models", free: true},
			{method: http.MethodGet, path: "/v1/models/*", free: true},
		}
	case OpenAICompatible:
		return []route{
			{method: http.MethodPost, path: "/v1/chat/completions", protocol: chat{}},
			{method: http.MethodGet, path: "/v1/models", free: true},
			{method: http.MethodGet, path: "/v1/models/*", free: true},
		}
	case Anthropic:
		return []route{
			{method: http.MethodPost, path: "/v1/messages", protocol: messages{}},
			{method: http.MethodPost, path: "/v1/messages/count_tokens", free: true},
			{method: http.MethodGet, path: "/v1/models", free: true},
			{method: http.MethodGet, path: "/v1/models/*", free: true},
		}
	case Gemini:
		return append(generateRoutes("/v1beta"), generateRoutes("/v1")...)
	default:
		return nil
	}
}

// generateRoutes are Gemini's in one of its versions; its SDK takes either.
func generateRoutes(version string) []route {
	models := version + "/models"
	return []route{
		{method: http.MethodPost, path: models + "/*:generateContent", protocol: generate{}},
		{method: http.MethodPost, path: models + "/*:streamGenerateContent", stream: true, protocol: generate{}},
		{method: http.MethodPost, path: models + "/*:countTokens", free: true},
		{method: http.MethodGet, path: models, free: true},
		{method: http.MethodGet, path: models + "/*", free: true},
	}
}

// match returns what stands for the "*" in pattern.
func match(pattern, path string) (string, bool) {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return "", pattern == path
	}
	segment, ok := strings.CutPrefix(path, before)
	if !ok {
		return "", false
	}
	segment, ok = strings.CutSuffix(segment, after)
	return segment, ok && strings.Trim(segment, ".") != "" && !strings.ContainsAny(segment, "/:%")
}

// Read understands a request: its method, the path below the provider's base URL, which begins with the version, and its body.
// Errors are a *Refusal.
func Read(kind Kind, method, path string, body []byte) (*Request, error) {
	index, name := -1, ""
	all := routes(kind)
	for i, r := range all {
		if segment, ok := match(r.path, path); ok && r.method == method {
			index, name = i, segment
			break
		}
	}
	if index < 0 {
		return nil, refuse(NotFound, "%s %.200q is not an endpoint that can be metered: use one of %s", method, path, endpoints(all))
	}
	if len(body) > MaxBody {
		return nil, refuse(TooLarge, "the request has %d bytes: at most %d are read", len(body), MaxBody)
	}
	r := all[index]
	if r.free {
		return &Request{Free: true, body: &object{raw: body}}, nil
	}
	o, err := parseObject(body)
	if err != nil {
		return nil, refuse(Invalid, "the request is not JSON that can be read in one way only: %v", err)
	}
	request := &Request{Model: name, Stream: r.stream, choices: 1, protocol: r.protocol}
	if err := r.protocol.read(request, o); err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			return nil, refusal
		}
		return nil, refuse(Invalid, "%v", err)
	}
	if request.Model == "" {
		return nil, refuse(Invalid, "model is missing: name one that has a price")
	}
	request.body = o
	if name := longCache(body); name != "" {
		request.longCache = name
	}
	request.input += aroundRequest + int64(len(body)) + expansion(body)
	return request, nil
}

func endpoints(all []route) string {
	var names []string
	for _, r := range all {
		if !r.free {
			names = append(names, r.method+" "+r.path)
		}
	}
	if len(names) == 0 {
		return "a kind of provider that is known"
	}
	return strings.Join(names, ", ")
}

// Prepare makes of a request what is to be sent, within a model's limits: what bounds its output is set where the client left it
// open, and what asks for usage too. A free request stays as it is.
func (r *Request) Prepare(limits Limits) (*Call, error) {
	if r.Free {
		return &Call{Body: r.body.raw}, nil
	}
	switch {
	case r.Opaque != "" && limits.Window <= 0:
		return nil, refuse(Invalid, "model %.80q: its context window (context) is not in the price list, so what %s costs cannot be bounded", r.Model, r.Opaque)
	case r.longCache != "" && limits.NoLongCache:
		return nil, refuse(Invalid, "model %.80q: what a cache that is kept for long costs (cache_write_1h) is not in the price list: leave out %s", r.Model, r.longCache)
	case (r.output == 0 || r.ignorable) && limits.Output <= 0:
		return nil, refuse(Invalid, "model %.80q: its longest answer (max_output) is not in the price list, so what the call costs cannot be bounded: say how long it may be, as with max_tokens", r.Model)
	}
	call := &Call{Model: r.Model, Stream: r.Stream, protocol: r.protocol}
	call.Bound.Input = r.input
	if r.Opaque != "" {
		call.Bound.Input = max(r.input, limits.Window)
	}
	call.Bound.CacheWrite = r.cacheWrite
	output := r.output
	if output == 0 {
		output = limits.Output
		if err := r.body.setInt(r.limit, output); err != nil {
			return nil, err
		}
	}
	if r.ignorable {
		output = max(output, limits.Output)
	}
	if r.beyond >= output {
		output += r.beyond
	}
	if output > maxTokens/r.choices {
		return nil, refuse(Invalid, "%d answers of %d tokens are more than can be counted", r.choices, output)
	}
	call.Bound.Output = output * r.choices
	if c, ok := r.protocol.(chat); ok && r.Stream && !r.wantsUsage {
		if err := c.askForUsage(r.body); err != nil {
			return nil, err
		}
		call.hide = true
	}
	call.Body = r.body.encode()
	return call, nil
}

// readHead reads what most protocols begin with; other members than the known ones are refused.
func (r *Request) readHead(o *object, known []string) (err error) {
	if err := onlyKnown(o, "", known); err != nil {
		return err
	}
	if r.Model, _, err = o.text("model"); err != nil {
		return err
	}
	r.Stream, err = o.flag("stream")
	return err
}

// oneOf refuses what is not among the values that a member may have.
func oneOf(o *object, name string, values ...string) error {
	s, there, err := o.text(name)
	if err != nil || !there || slices.Contains(values, s) {
		return err
	}
	return refuse(Invalid, "%s %.80q changes what the call costs: leave it out, or use %s", name, s, strings.Join(values, " or "))
}

// readReasoning takes how a model is to think. Modes in which a provider asks it several times, or another one, are refused: they read the
// input as often.
func (r *Request) readReasoning(o *object, known ...string) error {
	reasoning, err := o.object("reasoning")
	if err != nil || reasoning == nil {
		return err
	}
	if err := onlyKnown(reasoning, "of reasoning: ", append(known, "mode", "effort", "summary")); err != nil {
		return err
	}
	if err := oneOf(reasoning, "mode", "standard"); err != nil {
		return err
	}
	budget, err := reasoning.count("max_tokens")
	r.beyond = max(r.beyond, budget)
	return err
}

// onlyKnown refuses members that are not in the list: they may cost.
func onlyKnown(o *object, where string, known []string) error {
	for _, m := range o.members {
		if !slices.Contains(known, m.name) {
			return refuse(Invalid, "%s%.80q is not known here, and may cost: leave it out", where, m.name)
		}
	}
	return nil
}

func isNull(value []byte) bool { return bytes.Equal(value, []byte("null")) }
