package agents

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/policy"
)

// record is what is kept of an agent for the next raypherd, in a file of the run folder that root alone may read. It holds no
// secret: of the one that the warden shows there is only the hash.
type record struct {
	Boot         string // boot id: the clock and the cgroup ids below mean nothing after a reboot
	ID           string
	Subject      string
	Namespace    string
	Name         string
	UID          uint32
	User         string
	Home         string
	PolicyHome   string
	Program      string
	Argv         []string
	RunnerPID    int
	Digest       []byte
	Asked        []byte
	Manifest     []byte
	SourceHash   []byte
	Confirmation []byte
	SecretHash   []byte
	Handle       []byte `json:",omitempty"` // SHA-256 of the placeholder API key
	Budget       uint64 `json:",omitempty"` // micro-dollars of the run; 0: none of its own
	LaunchPermit []byte
	Backend      string // empty: Broker, as in records of earlier releases
	Terminals    []string
	Notes        []string
	Development  bool
	Tier         string
	Started      time.Time
	CgroupID     uint64
	Begun        bool // the warden said Started
	Blocked      uint64

	Cuts []NetworkCut `json:",omitempty"` // by operators

	WardenPID     int    // 0: it is attached and has none
	WardenStarted uint64 // clock ticks since boot

	Applied    []byte   `json:",omitempty"` // the operator's last policy for it
	Attached   string   `json:",omitempty"` // cgroup2 path
	AttachedBy uint32   `json:",omitempty"`
	Uncovered  []string `json:",omitempty"`

	EnclaveKey      []byte // PKIX DER, of the enclave that signed the visa of the launch
	LaunchVisa      []byte
	Visa            []byte
	VisaKey         []byte // PKIX DER, of the enclave that signed the current visa; empty: EnclaveKey, as in records of earlier releases
	VisaID          []byte
	PolicyHash      []byte
	Permit          []byte
	Intent          []byte
	ExpiresUnix     int64
	LifetimeSeconds int64
	Deadline        int64
}

const recordSuffix = ".json"

// bootID names this run of the kernel.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

func (a *Agent) recordPath() string {
	return filepath.Join(a.host.options.Paths.Records, a.id+recordSuffix)
}

// save writes the record in one step: a reader finds the old one or the new one, whole.
func (a *Agent) save() error {
	a.saving.Lock()
	defer a.saving.Unlock()
	boot, err := bootID()
	if err != nil {
		return err
	}
	var warden task.Identity
	var wardenPID int
	if w := a.wardenTask(); w != nil {
		if warden, err = w.Identity(); err != nil {
			return fmt.Errorf("record of agent %s: the warden: %w", a.id, err)
		}
		wardenPID = w.PID()
	}
	a.mu.Lock()
	var applied []byte
	if a.applied != nil {
		applied = a.applied.Canonical()
	}
	r := record{
		Boot: boot, ID: a.id, Subject: a.subject, Namespace: a.namespace, Name: a.name,
		UID: a.uid, User: a.user, Home: a.home, PolicyHome: a.policyHome,
		Program: a.program, Argv: a.argv, RunnerPID: a.runnerPID, Digest: a.digest,
		Asked: a.asked, Manifest: a.manifest, SourceHash: a.sourceHash,
		Confirmation: a.confirmation, SecretHash: a.secretHash, Handle: a.handle, Budget: a.budget, LaunchPermit: a.launchPermit.Canonical(),
		Backend: a.backend, Terminals: a.terminals, Notes: a.notes, Development: a.development, Tier: a.tier, Started: a.started,
		CgroupID: a.group.ID(), Begun: a.state != Launching, Blocked: a.blocked.Load(),
		Cuts:      a.cuts,
		WardenPID: wardenPID, WardenStarted: warden.Started,
		Applied: applied, Attached: a.attached, AttachedBy: a.attachedBy, Uncovered: a.uncovered,
		EnclaveKey: a.enclaveKey, LaunchVisa: a.launchVisa,
		Visa: a.grant.visa, VisaKey: a.grant.enclaveKey, VisaID: a.grant.visaID, PolicyHash: a.grant.policyHash,
		Permit: a.grant.permit.Canonical(), Intent: a.grant.intent,
		ExpiresUnix: a.grant.expires, LifetimeSeconds: int64(a.grant.lifetime / time.Second), Deadline: a.grant.deadline,
	}
	a.mu.Unlock()
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of agent %s: %w", a.id, err)
	}
	temporary := a.recordPath() + ".new"
	err = os.WriteFile(temporary, content, 0o600)
	if err == nil {
		err = os.Rename(temporary, a.recordPath())
	}
	if err != nil {
		return fmt.Errorf("record of agent %s: %w", a.id, err)
	}
	return nil
}

// forget removes the record.
func (a *Agent) forget() error {
	if err := os.Remove(a.recordPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of agent %s: %w", a.id, err)
	}
	return nil
}

// readRecords returns the records of the folder. A file that is none is left where it is and said.
func readRecords(folder string) (records []record, problems error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("records of agents: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		var r record
		content, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err == nil {
			err = json.Unmarshal(content, &r)
		}
		if err == nil && r.ID+recordSuffix != e.Name() {
			err = errors.New("it names another agent")
		}
		if err != nil {
			problems = errors.Join(problems, fmt.Errorf("record %s: %w", e.Name(), err))
			continue
		}
		records = append(records, r)
	}
	return records, problems
}

// revive makes an agent of a record. Its cgroup must still be the same one; its warden must live, and be where only raypherd
// puts a process; and all that it may do must be what the enclave signed: whoever could write the record grants nothing by it.
func (h *Host) revive(r *record) (*Agent, error) {
	a := &Agent{
		host: h, id: r.ID, subject: r.Subject, namespace: r.Namespace, name: r.Name,
		uid: r.UID, user: r.User, home: r.Home, policyHome: r.PolicyHome,
		program: r.Program, argv: r.Argv, runnerPID: r.RunnerPID, digest: r.Digest,
		asked: r.Asked, manifest: r.Manifest, sourceHash: r.SourceHash,
		confirmation: r.Confirmation, secretHash: r.SecretHash, handle: r.Handle, budget: r.Budget, enclaveKey: r.EnclaveKey, launchVisa: r.LaunchVisa,
		backend: r.Backend, terminals: r.Terminals, notes: r.Notes, development: r.Development, tier: r.Tier, started: r.Started,
		attached: r.Attached, attachedBy: r.AttachedBy, uncovered: r.Uncovered, networkOnly: r.Backend == Network,
		state: Waiting, cuts: r.Cuts,
	}
	if a.backend == "" {
		a.backend = Broker
	}
	a.blocked.Store(r.Blocked)
	var err error
	if a.launchPermit, err = policy.ParseCanonical(r.LaunchPermit); err != nil {
		return nil, fmt.Errorf("its permit: %w", err)
	}
	a.grant = grant{
		visa: r.Visa, visaID: r.VisaID, enclaveKey: r.VisaKey, policyHash: r.PolicyHash, intent: r.Intent, expires: r.ExpiresUnix,
		lifetime: time.Duration(r.LifetimeSeconds) * time.Second, deadline: r.Deadline,
	}
	if len(r.VisaKey) == 0 {
		a.grant.enclaveKey = r.EnclaveKey
	}
	if a.grant.permit, err = policy.ParseCanonical(r.Permit); err != nil {
		return nil, fmt.Errorf("its permit: %w", err)
	}
	if len(r.Applied) > 0 {
		if a.applied, err = policy.ParseCanonical(r.Applied); err != nil {
			return nil, fmt.Errorf("the operator's policy for it: %w", err)
		}
	}
	if err := h.signed(a); err != nil {
		return nil, err
	}
	if a.attached != "" {
		a.state = Running
		return a, nil
	}
	if a.warden, err = h.reviveWarden(r); err != nil {
		return nil, fmt.Errorf("its warden: %w", err)
	}
	return a, nil
}

func (h *Host) reviveWarden(r *record) (*task.Task, error) {
	if !r.Begun {
		return nil, errors.New("it had not begun")
	}
	warden, err := task.Open(r.WardenPID)
	if err != nil {
		return nil, err
	}
	id, err := warden.Identity()
	if err == nil && id.Started != r.WardenStarted {
		err = task.ErrGone
	}
	if err == nil {
		var is bool
		if is, err = h.options.Cgroups.IsWarden(r.WardenPID); err == nil && !is {
			err = fmt.Errorf("process %d is no warden of this raypherd", r.WardenPID)
		}
	}
	if err == nil && !warden.Alive() {
		err = task.ErrGone
	}
	if err != nil {
		warden.Close()
		return nil, err
	}
	return warden, nil
}
