// Package telemetry tells operators' tools what the enclave says of calls of models: metrics that Prometheus reads, spans that are sent to an
// OpenTelemetry collector, and lines of the log. What it is told has nothing of what agents asked and were answered, and no key in it.
//
// It is for looking, not for deciding: what comes too fast is left out and counted, and nobody waits for a collector. raypherd runs it where
// its flags ask for it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds.
const (
	retry         = time.Second      // after the enclave's stream ended
	endTime       = 5 * time.Second  // for what is on its way when raypherd ends
	headerTimeout = 10 * time.Second // of a request for metrics
	maxScrapes    = 4                // at once
	tracesPath    = "/v1/traces"     // OTLP specification, OTLP/HTTP request
)

// Options of Run.
type Options struct {
	// Observe calls each for what the enclave observes, until ctx or the stream ends.
	Observe  func(ctx context.Context, each func(*enclavev1.Observation)) error
	Spending func(context.Context) (*enclavev1.SpendingStatus, error)
	Metrics  net.Listener // of GET /metrics; nil: none
	OTLP     string       // URL of an OpenTelemetry collector that takes OTLP over HTTP; empty: none
	Version  string
	Log      *slog.Logger
}

// Listen opens the address where metrics are served: a loopback address, for what they say is for this host's tools alone.
func Listen(address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("metrics at %.100q: use a loopback address and a port, like 127.0.0.1:9464", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

// CheckOTLP holds that a text can be the URL of a collector.
func CheckOTLP(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("OpenTelemetry collector %.100q: use a URL like http://127.0.0.1:4318", endpoint)
	}
	return nil
}

// Run counts and sends until ctx ends.
func Run(ctx context.Context, o Options) error {
	m := newMetrics(o.Spending)
	spans, err := newSpans(ctx, o)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	server := &http.Server{Handler: handler(m), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	if o.Metrics != nil {
		go func() { served <- server.Serve(o.Metrics) }()
	}
	for ctx.Err() == nil {
		err := o.Observe(ctx, func(seen *enclavev1.Observation) {
			m.count(seen)
			spans.send(seen.GetCall())
			say(o.Log, seen)
		})
		o.Log.Debug("telemetry: the enclave's stream ended", "reason", err)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	err = spans.end(ending)
	server.Close()
	if o.Metrics != nil {
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	return err
}

func handler(m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout + time.Second}))
	return mux
}

// say puts into the log what an operator should know.
func say(log *slog.Logger, seen *enclavev1.Observation) {
	if n := seen.GetNotice(); n != nil {
		log.Warn("ledger", "kind", n.GetKind(), "words", n.GetWords())
	}
	if c := seen.GetCall(); c.GetDisagreement() != "" {
		log.Warn("a provider contradicts itself", "provider", c.GetProvider(), "model", c.GetModel(), "agent", c.GetAgent(), "disagreement", c.GetDisagreement())
	}
}

// spans sends calls to a collector; its zero value sends none.
type spans struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

func newSpans(ctx context.Context, o Options) (*spans, error) {
	if o.OTLP == "" {
		return &spans{}, nil
	}
	endpoint, err := url.Parse(o.OTLP)
	if err != nil {
		return nil, fmt.Errorf("OpenTelemetry: %w", err)
	}
	if strings.Trim(endpoint.Path, "/") == "" { // a collector without a path is the base of all its signals
		endpoint.Path = tracesPath
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint.String()))
	if err != nil {
		return nil, fmt.Errorf("OpenTelemetry: %w", err)
	}
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), // bounded: what finds no room is dropped
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName("raypher"), semconv.ServiceVersion(o.Version))),
	)
	return &spans{p, p.Tracer(scope)}, nil
}

// send makes the span of a call of a known model that came to an end or was refused.
func (s *spans) send(c *enclavev1.CallRecord) {
	if s.tracer == nil || c == nil || c.GetModel() == "" {
		return
	}
	begun := time.Unix(0, c.GetBegunUnixNano())
	name := operation(c.GetKind()).Value.AsString() + " " + c.GetModel()
	_, span := s.tracer.Start(context.Background(), name, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(begun), trace.WithAttributes(attributes(c)...))
	if why := failed(c); why != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(why))
		span.SetStatus(codes.Error, why)
	}
	span.End(trace.WithTimestamp(begun.Add(time.Duration(c.GetLastedNanos()))))
}

// failed is why a call has no good answer; empty: it has one.
func failed(c *enclavev1.CallRecord) string {
	if c.GetRefusal() != "" {
		return c.GetRefusal()
	}
	if s := c.GetStatus(); s >= 400 {
		return fmt.Sprint(s)
	}
	return ""
}

func (s *spans) end(ctx context.Context) error {
	if s.provider == nil {
		return nil
	}
	return s.provider.Shutdown(ctx)
}
