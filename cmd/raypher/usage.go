package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// codeUsage ends a command whose command line is wrong; `raypher run`, whose status is the program's, has one of its own.
const codeUsage = 2

// explainUsage makes c and all commands below it say, of a wrong command line, what a right one looks like.
func explainUsage(c *cobra.Command) {
	if c.HasSubCommands() && c.HasParent() {
		refuseUnknown(c)
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, given []string) error { return wrongUsage(c, check(c, given)) }
	}
	if !c.HasParent() {
		c.SetFlagErrorFunc(wrongUsage)
	}
	for _, sub := range c.Commands() {
		explainUsage(sub)
	}
}

// refuseUnknown makes a command that only groups others fail on a word that is none of them. Cobra would print the help and
// succeed, which a script takes for a yes.
func refuseUnknown(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return &exitError{codeUsage, fmt.Errorf("%sno command %q: see %s --help", subject(c), args[0], c.CommandPath())}
	}
}

// subject is what an error begins with: the command without the program's name, which stands before every error.
func subject(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ") + ": "
}

func wrongUsage(c *cobra.Command, err error) error {
	var known *exitError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &exitError{codeUsage, fmt.Errorf("%s%w: usage: %s", subject(c), err, c.UseLine())}
}

// ofCobra explains the mistakes that cobra finds in a command line without asking.
func ofCobra(c *cobra.Command, err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "required flag(s)"):
		return wrongUsage(c, err)
	case strings.HasPrefix(text, "unknown command"):
		return &exitError{codeUsage, fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	}
	return err
}
