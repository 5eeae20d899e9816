package cost

import "encoding/json"

type schema = map[string]any

// Schema is the JSON Schema (2020-12) of a cost_control.yaml, for editors. It accepts every file that Parse accepts; Parse also checks
// what a schema cannot: that zones exist, and that limits lie within each other.
func Schema() []byte {
	root := keys("What may be spent on models. See docs/ledger.md.", schema{
		"version":      integer("Larger than that of the file before.", 1<<53),
		"time_zone":    text("Whose months they are: an IANA name, like Europe/Berlin.", "^[A-Za-z0-9+_/-]+$"),
		"on_exhausted": words("What happens to a call that a budget refuses: refuse, or pause until an operator tops up.", string(Refuse), string(Pause)),
		"per_run":      limitsSchema("Caps of each run.", "budget_usd", nil),
		"namespaces": byName("Caps by namespace; * stands for each one that is not named.", limitsSchema("Caps of a namespace.", "monthly_budget_usd", schema{
			"per_run": limitsSchema("Caps of each run in it.", "budget_usd", nil),
			"agents": byName("Caps by the agent's name; * stands for each one that is not named.", limitsSchema("Caps of an agent.", "monthly_budget_usd", schema{
				"per_run": limitsSchema("Caps of each of its runs.", "budget_usd", nil),
			})),
		})),
		"alerts": schema{"type": "array", "maxItems": maxAlerts, "description": "Whom to tell when a share of a budget is used.", "items": requiring(keys("One alert.", schema{
			"at":      text("A share, like 80%.", "^([1-9][0-9]?|100)%$"),
			"webhook": text("Where to: an https URL.", "^https://"),
			"secret":  text("Name of the key that signs the message.", namePattern),
			"ca":      authoritiesSchema(),
		}), "at", "webhook")},
		"providers": byName("Who charges for models.", requiring(keys("One provider.", schema{
			"kind":     words("Its protocol.", string(OpenAI), string(Anthropic), string(Gemini), string(Compatible)),
			"base_url": text("Where it is: an https URL without a slash at its end.", "^https://.*[^/]$"),
			"key":      text("Name of the API key that the enclave holds.", namePattern),
			"ca":       authoritiesSchema(),
			"models":   byName("Models that may be called, with their prices; without this key those of the price list.", ratesSchema()),
		}), "kind", "base_url", "key")),
	})
	for key, s := range limitKeys("monthly_budget_usd") {
		root["properties"].(schema)[key] = s
	}
	requiring(root, "version", "time_zone", "monthly_budget_usd")
	root["$schema"], root["title"] = "https://json-schema.org/draft/2020-12/schema", "Raypher cost control"
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // maps of texts and numbers always encode
	}
	return append(out, '\n')
}

const namePattern = "^[A-Za-z0-9._:/-]{1,128}$"

func keys(what string, properties schema) schema {
	return schema{"type": "object", "description": what, "properties": properties, "additionalProperties": false}
}

func requiring(s schema, keys ...string) schema {
	s["required"] = keys
	return s
}

func byName(what string, each schema) schema {
	return schema{"type": "object", "description": what, "additionalProperties": each, "maxProperties": maxNames}
}

func text(what, pattern string) schema {
	return schema{"type": "string", "description": what, "pattern": pattern}
}

func words(what string, all ...string) schema {
	return schema{"type": "string", "description": what, "enum": all}
}

func integer(what string, most uint64) schema {
	return schema{"type": "integer", "description": what, "minimum": 0, "maximum": most}
}

func dollars(what string) schema {
	return schema{"description": what, "anyOf": []any{
		schema{"type": "number", "minimum": 0}, schema{"type": "string", "pattern": `^[0-9]+(\.[0-9]{1,6})?$`},
	}}
}

func limitKeys(budget string) schema {
	what := "Dollars in a month."
	if budget == "budget_usd" {
		what = "Dollars in the run's life."
	}
	return schema{
		budget:                dollars(what),
		"requests_per_minute": integer("Calls in any 60 seconds.", maxRate),
		"tokens_per_day":      integer("Tokens, of input and output, in any 24 hours.", maxRate),
	}
}

func limitsSchema(what, budget string, more schema) schema {
	properties := limitKeys(budget)
	for key, s := range more {
		properties[key] = s
	}
	return keys(what, properties)
}

func bandKeys() schema {
	return schema{
		"input": dollars("Dollars for a million tokens of input."), "cached_input": dollars("Of input that was cached."),
		"cache_write": dollars("Of input that is written to a cache."), "cache_write_1h": dollars("The same, for an hour."),
		"output": dollars("Of output."), "reasoning": dollars("Of output that is not shown."),
	}
}

func ratesSchema() schema {
	rates, tier := bandKeys(), bandKeys()
	tier["above"] = integer("Tokens of input from which on it holds.", 1<<40)
	rates["batch"] = requiring(keys("What calls in batches cost.", bandKeys()), "input", "output")
	rates["tiers"] = schema{"type": "array", "description": "What calls with much input cost.", "items": requiring(keys("One tier.", tier), "above", "input", "output")}
	rates["context"] = integer("Tokens of input and output together, at most.", 1<<40)
	rates["max_output"] = integer("Tokens of output, at most.", 1<<40)
	return requiring(keys("Prices of a model.", rates), "input", "output")
}

func authoritiesSchema() schema {
	return schema{"type": "string", "description": "Certificates in PEM: the authorities that its own may be under, in place of the public ones.", "pattern": "^-----BEGIN CERTIFICATE-----", "maxLength": maxCA}
}
