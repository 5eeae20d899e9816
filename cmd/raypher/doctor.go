package main

import (
	"io"
	"os"

	"github.com/raypher/raypher/parent/doctor"
	"github.com/raypher/raypher/parent/instance"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	var tpm string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether the guard can run on this host, what it holds here, and how to mend what is missing",
		Long: `Look at kernel, cgroups, clock, accounts, daemon and TPM, and say of each what follows for agents and how to mend it. Root sees everything;
any other user is told what could not be looked at. Exit code 0: the guard can run; 1: it cannot.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			paths, err := instance.FromEnvironment()
			if err != nil {
				return err
			}
			group := instance.Operators(paths.Socket)
			if group == "" {
				group = instance.Group
			}
			report := doctor.Interpret(doctor.Look(c.Context(), doctor.Places{
				Socket:      paths.Socket,
				Named:       os.Getenv(instance.RunVariable) != "",
				State:       paths.State,
				Journal:     paths.Journal,
				Group:       group,
				EnclaveUser: instance.EnclaveUser,
				TPM:         tpm,
			}))
			if asJSON {
				err = printJSON(c.OutOrStdout(), report)
			} else {
				err = report.Print(c.OutOrStdout(), hasColours(c.OutOrStdout()))
			}
			if err != nil {
				return err
			}
			if !report.CanRun {
				return &exitError{code: 1}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&tpm, "tpm-device", "", "the TPM to look at, a device or the socket of a simulator (default "+doctor.DefaultTPM+")")
	return c
}

// hasColours says whether out is a terminal whose user did not ask for plain text (no-color.org).
func hasColours(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
