package main

import (
	"fmt"
	"time"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// What --json of the fleet's commands prints: lists of objects, times as RFC 3339 (left out where there is none), numbers as numbers.

// hostJSON is a host.
type hostJSON struct {
	Name           string       `json:"name"`
	Tier           string       `json:"tier"`
	Verdict        string       `json:"verdict"` // affirming, none, or the check that failed last
	Attested       *time.Time   `json:"attested,omitempty"`
	ResultEnds     *time.Time   `json:"result_ends,omitempty"`
	Identity       string       `json:"identity"` // to which the host is bound; empty: not yet
	CallerKey      string       `json:"caller_key"`
	EnclaveKey     string       `json:"enclave_key"`
	Configuration  string       `json:"configuration"`
	Measurements   string       `json:"measurements"`
	CeilingVersion uint64       `json:"ceiling_version"`
	LeaseCounter   uint64       `json:"lease_counter"`
	Seen           *time.Time   `json:"seen,omitempty"` // the newest report of its raypherd
	Agents         uint32       `json:"agents"`
	Version        string       `json:"version"`
	Policies       []policyJSON `json:"policies"`
}

type policyJSON struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
}

func hostLine(h *controllerv1.Host) hostJSON {
	line := hostJSON{
		Name: h.GetName(), Tier: h.GetTier(), Verdict: h.GetVerdict(), Attested: timeOf(h.GetAttestedUnix()), ResultEnds: timeOf(h.GetResultExpiresUnix()),
		Identity: h.GetIdentity(), CallerKey: h.GetCallerKey(), EnclaveKey: h.GetEnclaveKey(), Configuration: h.GetConfiguration(),
		Measurements: h.GetMeasurements(), CeilingVersion: h.GetCeilingVersion(), LeaseCounter: h.GetLeaseCounter(), Seen: timeOf(h.GetSeenUnix()),
		Agents: h.GetAgents(), Version: h.GetVersion(), Policies: []policyJSON{},
	}
	for _, p := range h.GetPolicies() {
		line.Policies = append(line.Policies, policyJSON{p.GetName(), p.GetVersion()})
	}
	return line
}

// entryJSON is an entry of the controller's audit.
type entryJSON struct {
	Number  uint64    `json:"number"`
	Time    time.Time `json:"time"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	Outcome string    `json:"outcome"`
	Actor   string    `json:"actor"`
}

func entryLine(e *controllerv1.AuditEntry) entryJSON {
	return entryJSON{
		Number: e.GetNumber(), Time: time.UnixMilli(e.GetTimeUnixMs()).UTC(), Action: e.GetAction(), Subject: e.GetSubject(), Outcome: e.GetOutcome(), Actor: e.GetActor(),
	}
}

// jsonOf makes a list, which is there when it is empty too.
func jsonOf[M, L any](messages []M, line func(M) L) []L {
	lines := make([]L, 0, len(messages))
	for _, m := range messages {
		lines = append(lines, line(m))
	}
	return lines
}

// timeOf is a time in seconds since 1970; 0: there is none.
func timeOf(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}

// counted is a number with the word for what is counted.
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
