package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/raypher/raypher/controller/peer"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	gateway "github.com/raypher/raypher/proto/controller/v1/gateway"
)

// Paths that everybody may read, without a certificate.
const (
	PathJWKS    = "/.well-known/jwks.json"
	PathHealth  = "/healthz"
	PathOpenAPI = "/openapi.json"
)

// handler serves the calls as proto/controller/v1/http.yaml says, and the public paths.
func (s *Server) handler() (http.Handler, error) {
	calls, err := s.calls()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathJWKS, text("application/jwk-set+json", s.opts.JWKS))
	mux.HandleFunc("GET "+PathOpenAPI, text("application/json", gateway.OpenAPI))
	mux.HandleFunc("GET "+PathHealth, s.health)
	mux.Handle("/v1/", s.authenticated(calls))
	return hardened(mux), nil
}

// calls are the services behind HTTP. Names are those of the .proto file, and fields that are empty are there.
func (s *Server) calls() (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}, // unknown fields in requests are refused
		}),
		// Nothing of the caller's headers becomes metadata of a call.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
	)
	ctx := context.Background() // ends nothing: the connection is within this process
	for _, err := range []error{
		gateway.RegisterAttestationHandlerClient(ctx, mux, controllerv1.NewAttestationClient(s.local)),
		gateway.RegisterSecretsHandlerClient(ctx, mux, controllerv1.NewSecretsClient(s.local)),
		gateway.RegisterLeasesHandlerClient(ctx, mux, controllerv1.NewLeasesClient(s.local)),
		gateway.RegisterDistributionHandlerClient(ctx, mux, controllerv1.NewDistributionClient(s.local)),
		gateway.RegisterFleetHandlerClient(ctx, mux, controllerv1.NewFleetClient(s.local)),
	} {
		if err != nil {
			return nil, err
		}
	}
	return mux, nil
}

// authenticated puts the caller's identity into the context, and bounds what it sends. Without a certificate nothing is called.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := peer.FromTLS(*r.TLS)
		if err != nil {
			refuse(w, http.StatusUnauthorized, codes.Unauthenticated, err.Error()+": show the certificate of an operator's, a parent's or an enclave's key")
			return
		}
		// A browser sends a certificate along with what another site made it ask; none can send this type without being asked for leave.
		if r.Method != http.MethodGet && r.Method != http.MethodDelete && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			refuse(w, http.StatusUnsupportedMediaType, codes.InvalidArgument, "the body must be application/json")
			return
		}
		in := s.arriving.begin(func() { http.NewResponseController(w).SetReadDeadline(time.Now()) })
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2*MaxReceive)) // base64 needs a third more
		in()
		if err != nil {
			refuse(w, http.StatusRequestEntityTooLarge, codes.ResourceExhausted, "the body was cut off, or it has more than "+strconv.Itoa(2*MaxReceive)+" bytes")
			return
		}
		if bytes.Count(body, []byte("{"))+bytes.Count(body, []byte(",")) > MaxFields { // no name of anything has either
			refuse(w, http.StatusBadRequest, codes.InvalidArgument, "a request of more than "+strconv.Itoa(MaxFields)+" fields")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r.WithContext(peer.With(r.Context(), p)))
	})
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if s.opts.Healthy != nil {
		if err := s.opts.Healthy(r.Context()); err != nil {
			s.opts.Log.Warn("not healthy", "error", err)
			refuse(w, http.StatusServiceUnavailable, codes.Unavailable, "the database does not answer")
			return
		}
	}
	text("application/json", []byte(`{"status":"ok"}`))(w, r)
}

func text(kind string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Write(body)
	}
}

// refuse answers in the form of the services' own errors: the code of gRPC, words, and no details.
func refuse(w http.ResponseWriter, status int, code codes.Code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message, "details": []any{}})
}

func hardened(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
