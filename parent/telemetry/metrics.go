package telemetry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// scrapeTimeout bounds what the enclave is asked for one page of metrics.
const scrapeTimeout = 5 * time.Second

// Buckets in seconds: of the journal, and of models.
var (
	shortBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 30}
	longBuckets  = []float64{.1, .2, .5, 1, 2, 5, 10, 20, 50, 100, 300, 600}
)

// metrics are what Prometheus reads.
type metrics struct {
	registry      *prometheus.Registry
	calls         *prometheus.CounterVec
	tokens        *prometheus.CounterVec
	cost          *prometheus.CounterVec
	refusals      *prometheus.CounterVec
	disagreements *prometheus.CounterVec
	notices       *prometheus.CounterVec
	lost          prometheus.Counter
	lasted        *prometheus.HistogramVec
	firstByte     *prometheus.HistogramVec
	reserve       prometheus.Histogram
	settle        prometheus.Histogram
}

func newMetrics(spending func(context.Context) (*enclavev1.SpendingStatus, error)) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		registry:      prometheus.NewRegistry(),
		calls:         counter(callsTotal, "Calls of models that have ended.", "provider", "model", "outcome"),
		tokens:        counter(tokensTotal, "Tokens that providers said were used; those of reasoning are among those of output.", "provider", "model", "type"),
		cost:          counter(costTotal, "Dollars that calls came to; of those whose use nobody knows, what was held.", "provider", "model"),
		refusals:      counter(refusalsTotal, "Calls that did not begin or found no provider, by why, and by the cap that refused them.", "reason", "cap"),
		disagreements: counter(disagreementsTotal, "Answers whose headers say another usage or length than what came.", "provider"),
		notices:       counter(noticesTotal, "Alerts of budgets and alarms of the ledger.", "kind"),
		lost:          prometheus.NewCounter(prometheus.CounterOpts{Name: lostTotal, Help: "Calls and notices that were not counted, because they came too fast."}),
		lasted:        histogram(callSeconds, "Seconds of a call that left, until it was settled.", longBuckets, "provider", "model"),
		firstByte:     histogram(firstByteSeconds, "Seconds from the leaving of a call to the first byte of its answer.", longBuckets, "provider", "model"),
		reserve:       prometheus.NewHistogram(prometheus.HistogramOpts{Name: reserveSeconds, Help: "Seconds until a hold was durable.", Buckets: shortBuckets}),
		settle:        prometheus.NewHistogram(prometheus.HistogramOpts{Name: settleSeconds, Help: "Seconds until a settlement was durable.", Buckets: shortBuckets}),
	}
	m.registry.MustRegister(m.calls, m.tokens, m.cost, m.refusals, m.disagreements, m.notices, m.lost, m.lasted, m.firstByte, m.reserve, m.settle, balances{spending})
	return m
}

func (m *metrics) count(o *enclavev1.Observation) {
	m.lost.Add(float64(o.GetLost()))
	if n := o.GetNotice(); n != nil {
		m.notices.WithLabelValues(n.GetKind()).Inc()
	}
	c := o.GetCall()
	if c == nil {
		return
	}
	of := []string{c.GetProvider(), c.GetModel()}
	m.calls.WithLabelValues(c.GetProvider(), c.GetModel(), c.GetOutcome()).Inc()
	if c.GetRefusal() != "" {
		m.refusals.WithLabelValues(c.GetRefusal(), c.GetCap()).Inc()
	}
	if c.GetDisagreement() != "" {
		m.disagreements.WithLabelValues(c.GetProvider()).Inc()
	}
	for kind, n := range map[string]uint64{"input": c.GetInput(), "cache_read": c.GetCacheRead(), "cache_write": c.GetCacheWrite(), "output": c.GetOutput(), "reasoning": c.GetReasoning()} {
		if n > 0 {
			m.tokens.WithLabelValues(c.GetProvider(), c.GetModel(), kind).Add(float64(n))
		}
	}
	if n := c.GetCost(); n > 0 {
		m.cost.WithLabelValues(of...).Add(dollars(n))
	}
	if n := c.GetReservingNanos(); n > 0 && c.GetOutcome() != "refused" {
		m.reserve.Observe(seconds(n))
	}
	if n := c.GetSettlingNanos(); n > 0 {
		m.settle.Observe(seconds(n))
	}
	if c.GetStatus() != 0 {
		m.lasted.WithLabelValues(of...).Observe(seconds(c.GetLastedNanos()))
	}
	if n := c.GetFirstByteNanos(); n > 0 {
		m.firstByte.WithLabelValues(of...).Observe(seconds(n))
	}
}

func seconds(nanos uint64) float64 { return float64(nanos) / 1e9 }
func dollars(micro uint64) float64 { return float64(micro) / 1e6 }

// balances asks the ledger how the caps stand whenever somebody looks. Runs are left out: there is no end of them.
type balances struct {
	spending func(context.Context) (*enclavev1.SpendingStatus, error)
}

var (
	labels = []string{"level", "name"}
	ledger = prometheus.NewDesc(up, "1 if the ledger said how the caps stand, and knows its journal.", nil, nil)
	gauges = []struct {
		desc *prometheus.Desc
		of   func(a *enclavev1.SpendingAccount) (value uint64, there bool)
	}{
		{prometheus.NewDesc(budgetLimit, "Dollars that a cap allows in a month.", labels, nil), func(a *enclavev1.SpendingAccount) (uint64, bool) { return a.GetBudget(), a.Budget != nil }},
		{prometheus.NewDesc(budgetSpent, "Dollars that were charged this month.", labels, nil), func(a *enclavev1.SpendingAccount) (uint64, bool) { return a.GetSpent(), true }},
		{prometheus.NewDesc(budgetHeld, "Dollars that calls under way may cost at most.", labels, nil), func(a *enclavev1.SpendingAccount) (uint64, bool) { return a.GetHeld(), true }},
		{prometheus.NewDesc(budgetLost, "Dollars of which nobody can say whether they were spent; they count against the cap.", labels, nil), func(a *enclavev1.SpendingAccount) (uint64, bool) { return a.GetLost(), true }},
		{prometheus.NewDesc(budgetAvailable, "Dollars that are left under a cap.", labels, nil), available},
	}
	closed = prometheus.NewDesc(budgetClosed, "1 if a provider charged more than a call could cost: nothing passes until another grant.", labels, nil)
)

func available(a *enclavev1.SpendingAccount) (uint64, bool) {
	used := a.GetSpent() + a.GetHeld() + a.GetLost()
	return a.GetBudget() - min(used, a.GetBudget()), a.Budget != nil
}

// Describe implements prometheus.Collector.
func (b balances) Describe(all chan<- *prometheus.Desc) {
	all <- ledger
	for _, g := range gauges {
		all <- g.desc
	}
	all <- closed
}

// Collect implements prometheus.Collector.
func (b balances) Collect(all chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	status, err := b.spending(ctx)
	if err != nil || status.GetUnread() {
		all <- prometheus.MustNewConstMetric(ledger, prometheus.GaugeValue, 0)
		return
	}
	all <- prometheus.MustNewConstMetric(ledger, prometheus.GaugeValue, 1)
	for _, a := range status.GetAccounts() {
		if a.GetLevel() == "run" {
			continue
		}
		for _, g := range gauges {
			if value, there := g.of(a); there {
				all <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, dollars(value), a.GetLevel(), a.GetName())
			}
		}
		shut := 0.0
		if a.GetClosed() {
			shut = 1
		}
		all <- prometheus.MustNewConstMetric(closed, prometheus.GaugeValue, shut, a.GetLevel(), a.GetName())
	}
}
