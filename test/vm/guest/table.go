package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/test/conformance"
)

// probe is the program that plays the table's cases.
const probe = "/bin/probe"

// worlds is the folder of the table's files.
const worlds = "/tmp/table"

// table plays test/conformance's table with the programs as a person uses them, as root and as a user.
func (m *machine) table() {
	if err := errors.Join(os.Mkdir(worlds, 0o755), furnishTable(), yama(0), m.startDaemon("--backend", m.backend)); err != nil {
		m.fail("%v", err)
		return
	}
	for _, setting := range conformance.Settings() {
		for _, uid := range []int{0, userID} {
			if missing := setting.Missing(uid); missing != "" {
				fmt.Printf("GUEST %s, user %d: left out: %s\n", setting.Name, uid, missing)
				continue
			}
			began, deviations := time.Now(), 0
			err := conformance.Play(guard{m}, setting, uid, worlds, probe, func(c conformance.Case, what string) {
				deviations++
				m.fail("%s, user %d: %s: %s", setting.Name, uid, c.Name, what)
			})
			if err != nil {
				m.fail("%s, user %d: %v", setting.Name, uid, err)
			}
			fmt.Printf("GUEST %s, user %d: %d cases, %d deviations, in %v\n", setting.Name, uid, setting.Count(), deviations, time.Since(began).Round(time.Millisecond))
		}
	}
	m.killDaemon()
}

// furnishTable makes what the table expects of every system.
func furnishTable() error {
	content, err := os.ReadFile(probe)
	return errors.Join(err, os.MkdirAll("/usr/bin", 0o755), os.WriteFile("/usr/bin/true", content, 0o755),
		os.Mkdir("/dev/shm", 0o755), unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, ""))
}

// guard starts agents under this machine's raypherd.
type guard struct{ *machine }

func (g guard) Backend() string { return g.backend }

func (g guard) Launch(policy string, uid int, folder string, argv []string) (conformance.Run, error) {
	path := filepath.Join(filepath.Dir(folder), "policy.yaml")
	if err := os.WriteFile(path, []byte(policy), 0o644); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	r := &run{cmd: prepare(ctx, uid, append([]string{"/bin/raypher", "run", "--json", "--policy", path, "--"}, argv...)...), cancel: cancel}
	r.cmd.Dir, r.cmd.Stderr = folder, r
	return r, nil
}

// run is one agent of the table. Safe for concurrent use.
type run struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc

	mutex sync.Mutex
	said  bytes.Buffer
}

// Write takes what comes from the standard error.
func (r *run) Write(text []byte) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.said.Write(text)
}

func (r *run) text() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.said.String()
}

func (r *run) Command() *exec.Cmd { return r.cmd }

func (r *run) Verdicts() ([]journal.Verdict, error) { return conformance.Verdicts(r.text()) }

// Close says why an agent was not started.
func (r *run) Close() error {
	r.cancel()
	if r.cmd.ProcessState.ExitCode() > 0 {
		return errors.New(r.text())
	}
	return nil
}
