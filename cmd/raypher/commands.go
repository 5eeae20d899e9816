package main

import "github.com/spf13/cobra"

// commands lists every subcommand; each lives in the file of its name.
func commands() []*cobra.Command {
	return []*cobra.Command{
		runCommand(),
		wardenCommand(),
		policyCommand(),
		manifestCommand(),
		doctorCommand(),
		visaCommand(),
		evidenceCommand(),
		attestCommand(),
		eventsCommand(),
		agentsCommand(),
		statusCommand(),
		ceilingCommand(),
	}
}
