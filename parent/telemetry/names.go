package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"

	"github.com/raypher/raypher/cost"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Every name that leaves this package stands here. Metrics follow the naming of Prometheus, spans the semantic conventions of OpenTelemetry for
// generative AI, version 1.41; what those have no name for begins with raypher.

// Names of metrics.
const (
	callsTotal         = "raypher_llm_calls_total"
	tokensTotal        = "raypher_llm_tokens_total"
	costTotal          = "raypher_llm_cost_usd_total"
	refusalsTotal      = "raypher_llm_refusals_total"
	disagreementsTotal = "raypher_llm_disagreements_total"
	callSeconds        = "raypher_llm_call_seconds"
	firstByteSeconds   = "raypher_llm_first_byte_seconds"
	reserveSeconds     = "raypher_llm_reserve_seconds"
	settleSeconds      = "raypher_llm_settle_seconds"
	noticesTotal       = "raypher_ledger_notices_total"
	lostTotal          = "raypher_telemetry_lost_total"
	up                 = "raypher_ledger_up"
	budgetLimit        = "raypher_budget_limit_usd"
	budgetSpent        = "raypher_budget_spent_usd"
	budgetHeld         = "raypher_budget_held_usd"
	budgetLost         = "raypher_budget_lost_usd"
	budgetAvailable    = "raypher_budget_available_usd"
	budgetClosed       = "raypher_budget_closed"
)

// Names of attributes of spans beside those of package semconv.
const (
	attributeNamespace    = attribute.Key("raypher.namespace")
	attributeRun          = attribute.Key("raypher.run")
	attributeOutcome      = attribute.Key("raypher.outcome")
	attributeCap          = attribute.Key("raypher.cap")
	attributeCost         = attribute.Key("raypher.cost_usd")
	attributeWorst        = attribute.Key("raypher.worst_usd")
	attributeDisagreement = attribute.Key("raypher.usage.disagreement")
)

// scope names who makes the spans.
const scope = "github.com/raypher/raypher/parent/telemetry"

// attributes of a call.
func attributes(c *enclavev1.CallRecord) []attribute.KeyValue {
	all := []attribute.KeyValue{
		operation(c.GetKind()), provider(c), semconv.GenAIRequestModel(c.GetModel()), semconv.GenAIAgentName(c.GetAgent()),
		semconv.GenAIRequestStream(c.GetStream()),
		attributeNamespace.String(c.GetNamespace()), attributeRun.String(c.GetRun()), attributeOutcome.String(c.GetOutcome()),
		attributeCost.String(cost.Amount(c.GetCost()).String()), attributeWorst.String(cost.Amount(c.GetWorst()).String()),
	}
	if c.GetInput()+c.GetCacheRead()+c.GetCacheWrite()+c.GetOutput() > 0 {
		all = append(all,
			semconv.GenAIUsageInputTokens(int(c.GetInput()+c.GetCacheRead()+c.GetCacheWrite())), semconv.GenAIUsageOutputTokens(int(c.GetOutput())),
			semconv.GenAIUsageCacheReadInputTokens(int(c.GetCacheRead())), semconv.GenAIUsageCacheCreationInputTokens(int(c.GetCacheWrite())),
			semconv.GenAIUsageReasoningOutputTokens(int(c.GetReasoning())))
	}
	if c.GetCap() != "" {
		all = append(all, attributeCap.String(c.GetCap()))
	}
	if c.GetDisagreement() != "" {
		all = append(all, attributeDisagreement.String(c.GetDisagreement()))
	}
	if status := c.GetStatus(); status != 0 {
		all = append(all, semconv.HTTPResponseStatusCode(int(status)))
	}
	if first := c.GetFirstByteNanos(); first != 0 && c.GetStream() {
		all = append(all, semconv.GenAIResponseTimeToFirstChunk(float64(first)/1e9))
	}
	return all
}

func operation(kind string) attribute.KeyValue {
	if cost.Kind(kind) == cost.Gemini {
		return semconv.GenAIOperationNameGenerateContent
	}
	return semconv.GenAIOperationNameChat
}

// provider is the one that the protocol is of; of others it is what cost_control.yaml calls it.
func provider(c *enclavev1.CallRecord) attribute.KeyValue {
	switch cost.Kind(c.GetKind()) {
	case cost.OpenAI:
		return semconv.GenAIProviderNameOpenAI
	case cost.Anthropic:
		return semconv.GenAIProviderNameAnthropic
	case cost.Gemini:
		return semconv.GenAIProviderNameGCPGemini
	}
	return semconv.GenAIProviderNameKey.String(c.GetProvider())
}
