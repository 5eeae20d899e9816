// Package probe is what tests run under the guard: it does what it is told by raw system calls, without a C library, and says what
// each one answered. It is the program test/probe/program, and a part of test programs that are governed themselves.
//
// What it says of its success is a hint: whether a call had an effect is for the test to see from outside.
package probe

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Action is one thing to do: its name and its arguments.
type Action []string

// Self are the arguments with which this program is the probe, where it is something else without them.
var Self []string

// Add makes more actions known, before Main.
func Add(more map[string]func([]string) error) { maps.Copy(Actions, more) }

// Main plays one part and returns the exit status:
//
//	(nothing)    all actions of a JSON list on the standard input; the answers are a JSON list
//	serve        one action for each line, a JSON list of base64; the answer is a line of JSON
//	lines        one action for each line of words; the answer is a line
//	exit         nothing
//	mark FILE    makes an empty file, which shows that the program ran
//	i386         a system call by int 0x80
//	victim       waits for the end of the standard input
//
// Anything else is an action, done once.
func Main(args []string) int {
	runtime.LockOSThread()
	if len(args) == 0 {
		return playList()
	}
	switch args[0] {
	case "exit":
		return 0
	case "mark":
		if Closed(unix.Open(args[1], unix.O_CREAT|unix.O_WRONLY, 0o644)) != nil {
			return 1
		}
		return 0
	case "serve":
		return playRequests()
	case "lines":
		return playLines()
	case "i386":
		return playI386()
	case "victim":
		return playVictim()
	}
	answer := Answer(Do(args))
	fmt.Println(answer)
	if answer != "ok" {
		return 1
	}
	return 0
}

func playList() int {
	var list []Action
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		fmt.Println(err)
		return 1
	}
	results := make([]string, len(list))
	for i, a := range list {
		results[i] = Answer(Do(a))
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		return 1
	}
	return 0
}

func playRequests() int {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var request [][]byte
		if in.Decode(&request) != nil {
			return 0
		}
		a := make(Action, len(request))
		for i := range request {
			a[i] = string(request[i])
		}
		if out.Encode(Answer(Do(a))) != nil {
			return 1
		}
	}
}

func playLines() int {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(Answer(Do(strings.Fields(in.Text()))))
	}
	return 0
}

// Answer is what a call answered in a word: ok, the name of an errno, the end of a program.
func Answer(err error) string {
	var errno unix.Errno
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return fmt.Sprint("exit ", exit.ExitCode())
	case errors.As(err, &exit):
		return exit.String() // signal: killed
	}
	return err.Error()
}

// Do does one action.
func Do(a Action) error {
	f, ok := Actions[a[0]]
	if !ok {
		return fmt.Errorf("no action %q", a[0])
	}
	return f(a[1:])
}
