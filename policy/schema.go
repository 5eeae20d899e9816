package policy

import (
	"encoding/json"
	"reflect"
	"strings"
)

// schemaTexts describe the keys in the schema: what editors show. A test holds that every key has one.
var schemaTexts = map[string]string{
	"":                            "What an agent may read, write, execute and reach. See docs/policy.md.",
	"namespace":                   "The part of the agent's SPIFFE ID that groups agents: a DNS label.",
	"mode":                        "enforce refuses what is not granted, audit records it and lets it pass, permissive only counts.",
	"on_violation":                "What happens to the agent at a refused action: block fails the action, kill ends the agent.",
	"syscalls":                    "Verdicts on system calls by name, on top of the base filter, which no policy lifts.",
	"filesystem":                  "Paths that the agent may use. Without this section files are not governed.",
	"filesystem.read":             "Files to read, folders to list.",
	"filesystem.write":            "Files to write, create, rename and remove. Write does not imply read.",
	"filesystem.exec":             "Programs to execute, by path, or by path and sha256. Exec implies read.",
	"filesystem.deny":             "Paths that stay refused whatever the other lists say.",
	"filesystem.require_approval": "Paths for which a person is asked.",
	"approval":                    "How long a call waits for a person whom require_approval asks. Without this section 5m, then it fails.",
	"approval.timeout":            "How long, from 1s to 24h, like 5m.",
	"approval.on_timeout":         "deny fails the call then; wait waits for ever, without a timeout.",
	"network.require_approval":    "Destinations for which a person is asked, spelled like egress, which must not grant them.",
	"filesystem.static":           "Leave to Landlock what it holds alone: no cost, no change during the run, refusals not recorded one by one.",
	"network":                     "Destinations that the agent may reach. Without this section it reaches nothing.",
	"network.default_action":      "What happens to a destination that no rule names.",
	"network.on_deny":             "How a refused flow looks: blackhole is silence, reject an error at once.",
	"network.egress":              "CIDR, address, host name or *.name, each with or without :port; IPv6 with a port in brackets. `private name` may be answered with private addresses too.",
	"network.listen":              "Where the agent may listen: a port, or address:port.",
	"network.ingress":             "Who may open flows to the agent: a port of it for everyone, a CIDR, or CIDR:port; IPv6 with a port in brackets.",
	"network.unix":                "Paths of unix sockets that the agent may connect to.",
	"network.isolate":             "Give the agent a network namespace of its own, whose only way out is watched by the host.",
	"network.unmetered":           "Where a budget is kept: allow lets the agent reach providers of models past the gateway, uncounted.",
	"resources":                   "Limits on the whole agent.",
	"resources.max_fds":           "Open descriptors of one process.",
	"resources.max_memory_mb":     "Memory of the whole agent, in mebibytes.",
	"resources.max_processes":     "Tasks of the whole agent.",
}

// schemaWords are the values of the text types.
var schemaWords = map[reflect.Type][]string{
	reflect.TypeFor[Mode]():          {string(Enforce), string(Audit), string(Permissive)},
	reflect.TypeFor[OnViolation]():   {string(Block), string(Kill)},
	reflect.TypeFor[SyscallAction](): {string(SyscallAllow), string(SyscallDeny), string(SyscallLog)},
	reflect.TypeFor[DefaultAction](): {string(Drop), string(Allow)},
	reflect.TypeFor[OnTimeout]():     {string(TimeoutDeny), string(TimeoutWait)},
	reflect.TypeFor[OnDeny]():        {string(Blackhole), string(Reject)},
	reflect.TypeFor[Unmetered]():     {string(UnmeteredRefuse), string(UnmeteredAllow)},
}

var schemaLimits = map[string]uint64{
	"resources.max_fds":       maxFDs,
	"resources.max_memory_mb": maxMemoryMB,
	"resources.max_processes": maxProcesses,
}

// Schema is the JSON Schema (2020-12) of a policy file, made from the type Policy, for editors. It accepts every policy that
// Parse accepts, but for lists inside lists; Parse also checks what a schema cannot.
func Schema() []byte {
	root := schemaOf(reflect.TypeFor[Policy](), "")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Raypher policy"
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // maps of strings and numbers always encode
	}
	return append(text, '\n')
}

func schemaOf(t reflect.Type, at string) map[string]any {
	schema := map[string]any{}
	if text := schemaTexts[at]; text != "" {
		schema["description"] = text
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), at)
	case reflect.Struct:
		properties := map[string]any{}
		for i := range t.NumField() {
			key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if key == "-" {
				continue // it is written in another key
			}
			properties[key] = schemaOf(t.Field(i).Type, strings.TrimPrefix(at+"."+key, "."))
		}
		schema["type"], schema["properties"], schema["additionalProperties"] = "object", properties, false
	case reflect.Map:
		schema["type"], schema["additionalProperties"] = "object", schemaOf(t.Elem(), "")
		delete(schema["additionalProperties"].(map[string]any), "description")
		schema["propertyNames"] = map[string]any{"enum": Syscalls()}
	case reflect.Slice:
		schema["type"], schema["items"], schema["maxItems"] = "array", itemSchema(at), maxListItems
	case reflect.String:
		schema["type"] = "string"
		if words := schemaWords[t]; words != nil {
			schema["enum"] = words
		}
		if at == "namespace" {
			schema["pattern"] = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
		}
	case reflect.Bool:
		schema["type"] = "boolean"
	case reflect.Uint64:
		schema["type"], schema["minimum"], schema["maximum"] = "integer", 1, schemaLimits[at]
	}
	return schema
}

func itemSchema(at string) map[string]any {
	switch at {
	case "network.egress", "network.require_approval":
		return map[string]any{"type": "string", "minLength": 1}
	case "network.listen", "network.ingress":
		return map[string]any{"type": []string{"string", "integer"}}
	}
	path := map[string]any{"type": "string", "pattern": "^(/|~$|~/)", "maxLength": maxPatternBytes}
	if at != "filesystem.exec" {
		return path
	}
	return map[string]any{"anyOf": []any{path, map[string]any{
		"type": "object", "additionalProperties": false, "required": []string{"path", "sha256"},
		"properties": map[string]any{"path": path, "sha256": map[string]any{"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"}},
	}}}
}
