package agents

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/policy"
)

// Isolation wires agents that have a network namespace of their own (package isolate).
type Isolation interface {
	// Connect makes the wire of an agent in its namespace, and what it needs of raypherd in there.
	Connect(a *Agent, namespace *os.File) (notes []string, err error)
	// Again does so for an agent that an earlier raypherd connected: its wire is there.
	Again(a *Agent, namespace *os.File) error
	// Disconnect lets go of an agent that has ended, or was never connected.
	Disconnect(a *Agent) error
	// Clean removes the wires that an earlier raypherd left of agents that do not go on.
	Clean(goesOn func(id string) bool) error
}

// ErrStaysShared says why a running agent cannot follow a permit.
var ErrStaysShared = errors.New("network.isolate: it takes effect when an agent starts, and this one shares the host's network")

func isolates(p *policy.Policy) bool { return p.Network != nil && p.Network.Isolate }

func (a *Agent) isolated() bool { return isolates(a.launchPermit) }

// errNotOwn is what somebody reads whose agent is to be isolated and who did not start it so.
var errNotOwn = errors.New("network.isolate: the agent is not in a network namespace of its own: the host's policy or ceiling demands one, " +
	"so say `isolate: true` in the `network` section of the policy that the run names")

// connect gives an isolated agent its wire, after its runner has taken the floor.
func (a *Agent) connect() error {
	if a.host.options.Isolation == nil {
		return errors.New("network.isolate: this raypherd has no wires")
	}
	namespace, err := ownNamespace(a.runnerPID)
	if err != nil {
		return err
	}
	defer namespace.Close()
	notes, err := a.host.options.Isolation.Connect(a, namespace)
	if err != nil {
		return fmt.Errorf("network.isolate: %w", err)
	}
	for _, note := range notes {
		a.host.options.Log.Warn(note, "agent", a.id)
	}
	return nil
}

// connected finds the wire of an agent of an earlier raypherd again.
func (a *Agent) connected() error {
	if !a.isolated() || a.host.options.Isolation == nil {
		return nil
	}
	pids, err := a.group.Processes()
	if err != nil {
		return err
	}
	err = errNotOwn
	for _, pid := range pids {
		var namespace *os.File
		if namespace, err = ownNamespace(pid); err != nil {
			continue // it may have ended
		}
		defer namespace.Close()
		return a.host.options.Isolation.Again(a, namespace)
	}
	return err
}

// disconnect takes back what connect made.
func (a *Agent) disconnect() error {
	if !a.isolated() || a.host.options.Isolation == nil {
		return nil
	}
	return a.host.options.Isolation.Disconnect(a)
}

// refuseStart tells the warden why the program must not be executed.
func (o *owner) refuseStart(err error) {
	o.host.options.Log.Error("the agent cannot begin", "agent", o.id, "error", err)
	o.tell(&attend.ParentMessage{Armed: &attend.Armed{Failed: err.Error()}})
}

// ownNamespace is the network namespace of a process that is another than raypherd's. A runner may have one thread in it, the one that
// becomes the program.
func ownNamespace(pid int) (*os.File, error) {
	var here unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return nil, err
	}
	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		return nil, err
	}
	for _, thread := range threads {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "task", thread.Name(), "ns/net"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err == nil && (st.Ino != here.Ino || st.Dev != here.Dev) {
			return f, nil
		}
		f.Close()
	}
	return nil, errNotOwn
}
