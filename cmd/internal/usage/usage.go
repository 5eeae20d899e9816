// Package usage makes the programs with commands tell a wrong command line from a command that failed, and say of it what a right one looks
// like: cmd/raypher and cmd/raypher-controller.
package usage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Code ends a program whose command line is wrong. `raypher run`, whose status is the program's, has one of its own.
const Code = 2

// Error is a mistake in a command line.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// ExitCode is Code.
func (e *Error) ExitCode() int { return Code }

// Coded is an error that knows with which status its program ends.
type Coded interface {
	error
	ExitCode() int
}

// ExitCode is the status with which a program ends after an error: that of the first Coded in it, else 1.
func ExitCode(err error) int {
	var coded Coded
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}

// Explain makes c, the program's own command, and all commands below it say, of a wrong command line, what a right one looks like.
func Explain(c *cobra.Command) {
	if c.HasSubCommands() && c.HasParent() {
		refuseUnknown(c)
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, given []string) error { return wrong(c, check(c, given)) }
	}
	if !c.HasParent() {
		c.SetFlagErrorFunc(wrong)
	}
	for _, sub := range c.Commands() {
		Explain(sub)
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
		return &Error{fmt.Errorf("%sno command %q: see %s --help", subject(c), args[0], c.CommandPath())}
	}
}

// subject is what an error begins with: the command without the program's name, which stands before every error.
func subject(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ") + ": "
}

func wrong(c *cobra.Command, err error) error {
	var known Coded
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &Error{fmt.Errorf("%s%w: usage: %s", subject(c), err, c.UseLine())}
}

// OfCobra explains the mistakes that cobra finds in a command line without asking.
func OfCobra(c *cobra.Command, err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "required flag(s)"):
		return wrong(c, err)
	case strings.HasPrefix(text, "unknown command"):
		return &Error{fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	}
	return err
}
