package dialect

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Reason is why a request is refused.
type Reason int

// Reasons, in the words of HTTP.
const (
	Invalid         Reason = http.StatusBadRequest
	Unauthenticated Reason = http.StatusUnauthorized
	Exhausted       Reason = http.StatusPaymentRequired // a budget; trying again does not help
	Forbidden       Reason = http.StatusForbidden
	NotFound        Reason = http.StatusNotFound
	TooLarge        Reason = http.StatusRequestEntityTooLarge
	RateLimited     Reason = http.StatusTooManyRequests
	Unavailable     Reason = http.StatusServiceUnavailable
	Upstream        Reason = http.StatusBadGateway
)

// Refusal is an answer in the provider's stead. It is an error; its message is for people and may be shown to the agent.
type Refusal struct {
	Reason     Reason
	Message    string
	RetryAfter time.Duration // 0: not said
	// Details are what SDKs of Anthropic read to try otherwise; nil: none.
	Details map[string]any
	Cause   error // for who calls this package; no client sees it
}

func refuse(reason Reason, format string, arguments ...any) *Refusal {
	return &Refusal{Reason: reason, Message: fmt.Sprintf(format, arguments...)}
}

func (r *Refusal) Error() string { return r.Message }

func (r *Refusal) Unwrap() error { return r.Cause }

// Response returns what a client of that kind understands as an error of its provider.
func (r *Refusal) Response(kind Kind) (status int, header http.Header, body []byte) {
	header = http.Header{"Content-Type": {"application/json"}}
	// The official SDKs of OpenAI and Anthropic follow this header before any rule of their own.
	header.Set("X-Should-Retry", strconv.FormatBool(r.Reason == RateLimited || r.Reason == Unavailable || r.Reason == Upstream))
	if r.RetryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(r.RetryAfter.Seconds())), 10))
	}
	message := "raypher: " + r.Message
	var shape any
	switch kind {
	case Anthropic:
		of := map[string]any{"type": r.anthropic(), "message": message}
		if r.Details != nil {
			of["details"] = r.Details
		}
		shape = map[string]any{"type": "error", "error": of}
	case Gemini:
		shape = map[string]any{"error": map[string]any{"code": int(r.Reason), "status": r.gemini(), "message": message}}
	default:
		kind, code := r.openAI()
		shape = map[string]any{"error": map[string]any{"type": kind, "code": code, "param": nil, "message": message}}
	}
	body, err := json.Marshal(shape)
	if err != nil {
		panic(err) // strings, numbers and lists of them alone
	}
	return int(r.Reason), header, body
}

// anthropic returns the type of error by Anthropic's list.
func (r *Refusal) anthropic() string {
	switch r.Reason {
	case Invalid:
		return "invalid_request_error"
	case Unauthenticated:
		return "authentication_error"
	case Exhausted:
		return "billing_error"
	case Forbidden:
		return "permission_error"
	case NotFound:
		return "not_found_error"
	case TooLarge:
		return "request_too_large"
	case RateLimited:
		return "rate_limit_error"
	case Unavailable:
		return "overloaded_error"
	default:
		return "api_error"
	}
}

// gemini returns the status, a name of google.rpc.Code.
func (r *Refusal) gemini() string {
	switch r.Reason {
	case Invalid, TooLarge:
		return "INVALID_ARGUMENT"
	case Unauthenticated:
		return "UNAUTHENTICATED"
	case Exhausted, RateLimited:
		return "RESOURCE_EXHAUSTED"
	case Forbidden:
		return "PERMISSION_DENIED"
	case NotFound:
		return "NOT_FOUND"
	default:
		return "UNAVAILABLE"
	}
}

func (r *Refusal) openAI() (kind, code string) {
	switch r.Reason {
	case Exhausted:
		return "insufficient_quota", "insufficient_quota"
	case RateLimited:
		return "requests", "rate_limit_exceeded"
	case Unauthenticated:
		return "invalid_request_error", "invalid_api_key"
	case NotFound:
		return "invalid_request_error", "not_found"
	case Upstream, Unavailable:
		return "server_error", "server_error"
	default:
		return "invalid_request_error", "invalid_request"
	}
}
