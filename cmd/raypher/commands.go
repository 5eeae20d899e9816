package main

import "github.com/spf13/cobra"

// builders makes every subcommand; each lives in the file of its name.
var builders = []struct {
	name  string
	build func() *cobra.Command
}{
	{"run", runCommand},
	{"warden", wardenCommand},
	{"learn", learnCommand},
	{"policy", policyCommand},
	{"manifest", manifestCommand},
	{"doctor", doctorCommand},
	{"visa", visaCommand},
	{"evidence", evidenceCommand},
	{"attest", attestCommand},
	{"events", eventsCommand},
	{"agents", agentsCommand},
	{"attach", attachCommand},
	{"detach", detachCommand},
	{"reload", reloadCommand},
	{"approvals", approvalsCommand},
	{"net", netCommand},
	{"status", statusCommand},
	{"ceiling", ceilingCommand},
	{"eif", eifCommand},
	{"grant", grantCommand},
	{"seal", sealCommand},
	{"fleet", fleetCommand},
	{"prices", pricesCommand},
	{"keys", keysCommand},
	{"spend", spendCommand},
}

// commands makes the subcommand that the command line begins with, or all of them when it begins otherwise: a run is waited
// for, and has no use for what the others would set up.
func commands(arguments []string) []*cobra.Command {
	var all []*cobra.Command
	for _, b := range builders {
		if len(arguments) > 0 && arguments[0] == b.name {
			return []*cobra.Command{b.build()}
		}
	}
	for _, b := range builders {
		all = append(all, b.build())
	}
	return all
}
