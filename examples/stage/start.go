package stage

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// Demonstration is a program that plays scenes.
type Demonstration struct {
	Name   string              // of the program, and of its folder below examples
	Flags  func(*flag.FlagSet) // adds its own; may be nil
	Scenes func(p Places, arguments []string) ([]*Scene, error)
	Money  func(p Places) *Budget // played under the guard, after the scenes; nil, or returns nil: none
}

// Places are folders, absolute.
type Places struct {
	Programs string // with raypher, raypherd and raypher-enclave
	Folder   string // with the policy and the script
}

// Main is what a demonstration's main function does; it returns the exit status.
func (d Demonstration) Main() int {
	err := Play(os.Args[1:], d.perform)
	if err == nil {
		return 0
	}
	if !errors.Is(err, ErrReported) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", d.Name, err)
	}
	return 1
}

func (d Demonstration) perform(arguments []string) error {
	flags := flag.NewFlagSet(d.Name, flag.ContinueOnError)
	programs := flags.String("programs", "bin", "folder with the programs that make builds")
	folder := flags.String("folder", filepath.Join("examples", d.Name), "folder with policy.yaml, script.json and what else the scenes read")
	control := flags.Bool("control", true, "run the agent without the guard first, in a scratch home")
	guard := flags.Bool("guard", true, "run the agent under the guard")
	if d.Flags != nil {
		d.Flags(flags)
	}
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	var p Places
	var err error
	if p.Programs, err = filepath.Abs(*programs); err != nil {
		return err
	}
	if p.Folder, err = filepath.Abs(*folder); err != nil {
		return err
	}
	scenes, err := d.Scenes(p, flags.Args())
	if err != nil {
		return err
	}
	var failed error
	for _, scene := range scenes {
		scene.Programs, scene.Control, scene.Guard = p.Programs, *control, *guard
		failed = errors.Join(failed, scene.Perform(os.Stdout))
	}
	if d.Money == nil || !*guard {
		return failed
	}
	if money := d.Money(p); money != nil {
		money.Programs = p.Programs
		failed = errors.Join(failed, money.Perform(os.Stdout))
	}
	return failed
}
