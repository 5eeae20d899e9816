package main

import "github.com/spf13/cobra"

// commands lists every subcommand; each lives in the file of its name.
func commands() []*cobra.Command {
	return []*cobra.Command{
		policyCommand(),
		manifestCommand(),
		doctorCommand(),
		visaCommand(),
		evidenceCommand(),
		// run, policy, manifest, visa, evidence, events, ceiling, agents, doctor
	}
}
