package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/raypher/raypher/trace"
)

// auditEverything lets everything pass and grants nothing, so that everything is observed.
const auditEverything = `mode: audit
filesystem: {}
network: {on_deny: reject}
`

// observedRun runs a program in mode audit and returns its trace, and how it ended unless that was well.
//
// The trace comes through a pipe that the program does not have: in mode audit it could write every file.
func observedRun(name string, argv []string) (t *trace.Trace, ended string, err error) {
	folder, err := os.MkdirTemp("", "raypher-learn-")
	if err != nil {
		return nil, "", fmt.Errorf("learn: %w", err)
	}
	defer os.RemoveAll(folder)
	policyPath := filepath.Join(folder, "policy.yaml")
	if err := os.WriteFile(policyPath, []byte(auditEverything), 0o600); err != nil {
		return nil, "", fmt.Errorf("learn: %w", err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, "", fmt.Errorf("learn: %w", err)
	}
	defer reader.Close()
	cmd := exec.Command("/proc/self/exe", runArguments(name, policyPath, argv)...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{writer}
	stop := passSignals(cmd)
	defer stop()
	err = cmd.Start()
	writer.Close()
	if err != nil {
		return nil, "", fmt.Errorf("learn: %w", err)
	}
	read := make(chan struct{})
	var raw bytes.Buffer
	go func() {
		defer close(read)
		_, err = raw.ReadFrom(reader)
	}()
	waitErr := cmd.Wait()
	awaitTrace(read)
	var exit *exec.ExitError
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("learn: read the trace: %w", err)
	case raw.Len() == 0 && errors.As(waitErr, &exit) && notStartedCode(exit.ExitCode()):
		return nil, "", &exitError{code: exit.ExitCode()} // raypher run has said why
	case waitErr != nil:
		ended = waitErr.Error()
	}
	if t, err = trace.Read(&raw); err != nil {
		return nil, "", fmt.Errorf("learn: %w", err)
	}
	return t, ended, nil
}

func runArguments(name, policyPath string, argv []string) []string {
	arguments := []string{"run", "--quiet", "--policy", policyPath, "--trace-fd", "3"}
	if name != "" {
		arguments = append(arguments, "--name", name)
	}
	return append(append(arguments, "--"), argv...)
}

// passSignals keeps what a terminal sends to both from ending this process before the program, and passes on what is sent to this
// process alone.
func passSignals(cmd *exec.Cmd) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if s != syscall.SIGINT && s != syscall.SIGQUIT && cmd.Process != nil {
					_ = cmd.Process.Signal(s) // it may have ended
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// awaitTrace waits for the last process that the program started, and says so when that takes long.
func awaitTrace(read <-chan struct{}) {
	select {
	case <-read:
		return
	case <-time.After(5 * time.Second):
		fmt.Fprintln(os.Stderr, "raypher: the program has ended; learn waits for what it left running in the background")
	}
	<-read
}
