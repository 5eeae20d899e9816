// Package instance knows where everything of one raypherd lies: sockets, state, its cgroup and its BPF pins. raypherd, the
// warden and the CLI ask it, and nothing else spells these paths.
//
// There are three kinds of instance: the system's daemon (Default), the private pair of one run that root started without a
// daemon (Private), and a daemon in folders of its own (At), which tests and a second installation use. Two instances never
// share a path, so they can run beside each other.
package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The folders of the system's daemon.
const (
	DefaultRun   = "/run/raypher"
	DefaultState = "/var/lib/raypher"
	// Policy is the host's default policy: what `raypher run` uses without --policy.
	Policy = "/etc/raypher/policy.yaml"
	// Namespaces is the file of what each namespace may use.
	Namespaces = "/etc/raypher/namespaces.yaml"
	// Signers is the folder with the public keys of those whose manifests this host trusts.
	Signers = "/etc/raypher/signers"
	// Group is the group whose members run agents and operate the daemon.
	Group = "raypher"
	// AgentAddress is where the daemon serves the Agent service over TCP.
	AgentAddress = "127.0.0.1:50051"
	// GatewayAddress is where the daemon carries agents' calls of models into the enclave.
	GatewayAddress = "127.0.0.1:50052"
	// EnclaveUser is the account of a local enclave process.
	EnclaveUser = "raypher-enclave"
)

// The variables of the environment. RunVariable names the run folder of the daemon to talk to; the others are set for every
// agent.
const (
	RunVariable         = "RAYPHER_RUN_DIR"
	VisaVariable        = "RAYPHER_VISA"
	AgentSocketVariable = "RAYPHER_AGENT_SOCKET"
	AgentIDVariable     = "RAYPHER_AGENT_ID"
)

// bpffs is where the kernel's BPF file system is mounted by convention (Documentation/bpf, bpftool, systemd).
const bpffs = "/sys/fs/bpf"

// Paths says where the parts of one instance lie. It is a value; copying it is fine.
type Paths struct {
	Private bool // serves one run and ends with it

	Run           string // 0755
	Socket        string // Wardens and Operator
	AgentSocket   string // Agent
	Relay         string // of package relay, for wardens
	Visa          string // what RAYPHER_VISA names; opening it is answered by the agent's warden
	Records       string // 0700, one file per agent, for a restart
	Lock          string // held by the one raypherd of this instance
	EnclaveRun    string // folder of EnclaveSocket, owned by the enclave's user
	EnclaveSocket string

	State        string
	Journal      string // 0700, the audit store
	EnclaveState string // key file and ceiling of a local enclave
	Keys         string // 0700, the parent's key for the enclave, the enclave's pinned key, its start configuration
	Proposals    string // 0700, changes of policies that answers proposed, for review
	Spool        string // verdicts that the enclave has not taken yet

	Cgroup string // name of the folder below the cgroup2 mount that holds every agent of this instance
	Pins   string // folder of BPF pins; they keep the guard in place while no raypherd runs
}

// Default returns the paths of the system's daemon.
func Default() Paths { return at(DefaultRun, DefaultState, "raypher") }

// ValidID says whether a private run may be called so: 4 to 32 lower case letters or digits, as it becomes part of file names.
func ValidID(id string) bool {
	return len(id) >= 4 && len(id) <= 32 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// Private returns the paths of the private pair of one run. The id must be a ValidID.
func Private(id string) (Paths, error) {
	return PrivateIn(DefaultRun, DefaultState, id)
}

// PrivateSockets are the sockets of the private pairs that there are now, those of agents apart.
func PrivateSockets() []string {
	var all []string
	for _, socket := range []string{Default().Socket, Default().Relay} {
		found, err := filepath.Glob(filepath.Join(DefaultRun, "private", "*", filepath.Base(socket)))
		if err != nil {
			panic(err) // the pattern is malformed
		}
		all = append(all, found...)
	}
	return all
}

// PrivateIn is Private below other folders than the system's.
func PrivateIn(run, state, id string) (Paths, error) {
	if !ValidID(id) {
		return Paths{}, fmt.Errorf("private instance %q: the id must be 4 to 32 lower case letters or digits", id)
	}
	p := at(filepath.Join(run, "private", id), filepath.Join(state, "runs", id), "raypher-"+id)
	p.Private = true
	return p, nil
}

// At returns the paths of a daemon in folders of its own; both must be absolute. An empty folder means the system's. The
// name of the cgroup follows the run folder, so that a restart finds its agents and another instance does not.
func At(run, state string) (Paths, error) {
	if run == "" {
		run = DefaultRun
	}
	if state == "" {
		state = DefaultState
	}
	if !filepath.IsAbs(run) || !filepath.IsAbs(state) {
		return Paths{}, fmt.Errorf("folders of the daemon %q, %q: must be absolute paths", run, state)
	}
	run, state = filepath.Clean(run), filepath.Clean(state)
	name := "raypher"
	if run != DefaultRun {
		sum := sha256.Sum256([]byte(run))
		name += "-at-" + hex.EncodeToString(sum[:6])
	}
	return at(run, state, name), nil
}

// FromEnvironment returns the paths of the daemon that RAYPHER_RUN_DIR names, else of the system's. The state folder is
// the system's unless the run folder says otherwise; a caller that is no daemon has no use for it.
func FromEnvironment() (Paths, error) {
	return At(os.Getenv(RunVariable), "")
}

// Reach says whether a stream socket is served at path, without connecting to it: a datagram socket cannot be connected to it,
// and the kernel says that this is why (net/unix/af_unix.c, unix_find_bsd).
func Reach(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if errors.Is(err, unix.EPROTOTYPE) {
		return nil
	}
	if err == nil {
		err = unix.EPROTOTYPE
	}
	return err
}

// Operators is the group that may connect to a raypherd's socket, as the socket's mode has it; empty: root alone, or there is no
// socket.
func Operators(socket string) string {
	var st unix.Stat_t
	if err := unix.Stat(socket, &st); err != nil || st.Mode&0o060 != 0o060 || st.Gid == 0 {
		return ""
	}
	name := strconv.Itoa(int(st.Gid))
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	return name
}

// WhoMayAsk says in words who may connect to a raypherd's socket.
func WhoMayAsk(socket string) string {
	group := Operators(socket)
	if group == "" {
		return "only root may ask this raypherd: run as root"
	}
	return fmt.Sprintf("only root and group %s may ask this raypherd: join it (`adduser USER %s`, then log in again), or run as root", group, group)
}

// RelayBeside is the relay's socket of the raypherd that serves a socket.
func RelayBeside(socket string) string {
	return at(filepath.Dir(socket), "", "").Relay
}

// Closed lists the folders that no agent may open, whatever its permit grants: run and state folders of the instance and of
// the system's daemon, with those of every private run, and the pins. Two things in a run folder are nevertheless an agent's: Visa
// and AgentSocket, which its warden answers.
func (p Paths) Closed() []string {
	run, state := p.Run, p.State
	if p.Private {
		run, state = filepath.Dir(filepath.Dir(run)), filepath.Dir(filepath.Dir(state))
	}
	closed := []string{run, state, p.Pins, DefaultRun, DefaultState}
	slices.Sort(closed)
	return slices.Compact(closed)
}

// Sealed lists what no agent may write, whatever its permit grants: the host's policy and keys, and the guard's own programs that
// lie beside this one: who could write there would be the guard of the next agent.
func Sealed() []string {
	paths := []string{filepath.Dir(Policy)}
	self, err := os.Executable()
	if err != nil {
		return paths
	}
	for _, name := range []string{"raypher", "raypher-cli", "raypherd", "raypher-enclave"} {
		path := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			paths = append(paths, path)
		}
	}
	return paths
}

func at(run, state, name string) Paths {
	return Paths{
		Run:           run,
		Socket:        filepath.Join(run, "raypherd.sock"),
		AgentSocket:   filepath.Join(run, "agent.sock"),
		Relay:         filepath.Join(run, "raypherd-relay.sock"),
		Visa:          filepath.Join(run, "visa"),
		Records:       filepath.Join(run, "agents"),
		Lock:          filepath.Join(run, "lock"),
		EnclaveRun:    filepath.Join(run, "enclave"),
		EnclaveSocket: filepath.Join(run, "enclave", "enclave.sock"),
		State:         state,
		Journal:       filepath.Join(state, "journal"),
		EnclaveState:  filepath.Join(state, "enclave"),
		Keys:          filepath.Join(state, "keys"),
		Spool:         filepath.Join(state, "spool"),
		Proposals:     filepath.Join(state, "proposals"),
		Cgroup:        name,
		Pins:          filepath.Join(bpffs, name),
	}
}
