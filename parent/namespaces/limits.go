// Package namespaces holds what the agents of one namespace may use together. Each agent is held to limits of its own by its
// cgroup (package cgroup); here those are added up, and an agent whose limits do not fit into what its namespace has left is not
// begun. So a namespace never has more than it was given, whatever its agents do. Package agents is the only caller.
package namespaces

import (
	"fmt"
	"maps"
	"slices"

	"github.com/raypher/raypher/internal/strictyaml"
	"github.com/raypher/raypher/policy"
)

// MaxSource bounds the file, in bytes.
const MaxSource = 1 << 20

// Others is the name in the file that stands for each namespace that it does not name.
const Others = "*"

// Bounds of one namespace: what policies take, for as many agents as fit.
const (
	most    = 1 << 40
	mostFDs = 1 << 60
)

// Limits are what one namespace may use; nil: as much as it likes.
type Limits struct {
	Agents    *uint64
	MemoryMB  *uint64
	Processes *uint64 // with threads
	FDs       *uint64
}

// File is a file of limits. The zero value, and nil, limit nothing. It does not change.
type File struct {
	name  string
	named map[string]Limits
}

// Parse reads a file; name is for messages. The error, of type strictyaml.Errors, has all mistakes at once with their places.
func Parse(name string, text []byte) (*File, error) {
	r, document, err := strictyaml.Load(strictyaml.File{
		Name: name, What: "list of namespaces", Empty: "write namespaces: {}", Limit: MaxSource,
	}, text)
	if err != nil {
		return nil, err
	}
	f := &File{name: name, named: map[string]Limits{}}
	known := false
	r.Fields("", document, map[string]func(strictyaml.Place, *strictyaml.Node){
		"namespaces": func(at strictyaml.Place, n *strictyaml.Node) {
			known = true
			r.Mapping(at, n, func(namespace string, at strictyaml.Place, n *strictyaml.Node) {
				if namespace != Others {
					r.Report(at.Key(), policy.CheckNamespace(namespace))
				}
				f.named[namespace] = limits(r, at, n)
			})
		},
	})
	if !known && r.Count() == 0 {
		r.Report("namespaces", strictyaml.Faultf("write namespaces: {} for no limits", "missing"))
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// limits reads one namespace. It may have no agents at all; of anything else an agent needs one.
func limits(r *strictyaml.Reader, at strictyaml.Place, n *strictyaml.Node) (l Limits) {
	number := func(into **uint64, least, highest uint64) func(strictyaml.Place, *strictyaml.Node) {
		return func(at strictyaml.Place, n *strictyaml.Node) {
			r.Number(at, n, into)
			if v := *into; v != nil && (*v < least || *v > highest) {
				r.Report(at, strictyaml.Faultf("leave the key out for no limit", "%d is not between %d and %d", *v, least, highest))
			}
		}
	}
	r.Fields(at, n, map[string]func(strictyaml.Place, *strictyaml.Node){
		"max_agents":    number(&l.Agents, 0, most),
		"max_memory_mb": number(&l.MemoryMB, 1, most),
		"max_processes": number(&l.Processes, 1, most),
		"max_fds":       number(&l.FDs, 1, mostFDs),
	})
	return l
}

// Of returns the limits of a namespace.
func (f *File) Of(namespace string) Limits {
	if f == nil {
		return Limits{}
	}
	if l, ok := f.named[namespace]; ok {
		return l
	}
	return f.named[Others]
}

// Names are the namespaces that the file names, without Others.
func (f *File) Names() []string {
	if f == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.named)), func(n string) bool { return n == Others })
}

// Notes says in words which of the file's limits are counted and not held, on a host where no cgroup bounds an agent's memory or
// its processes.
func (f *File) Notes(memory, processes bool) []string {
	var some struct{ memory, processes, fds bool }
	if f != nil {
		for _, l := range f.named {
			some.memory = some.memory || l.MemoryMB != nil
			some.processes = some.processes || l.Processes != nil
			some.fds = some.fds || l.FDs != nil
		}
	}
	var notes []string
	add := func(missing bool, limit, controller, rest string) {
		if missing {
			notes = append(notes, fmt.Sprintf("%s of namespaces is counted at launches and not held: this host has no %s controller that can be used%s", limit, controller, rest))
		}
	}
	add(some.memory && !memory, "max_memory_mb", "memory", "")
	add(some.processes && !processes, "max_processes", "pids", "")
	add(some.fds && !processes, "max_fds", "pids", "; each process is held to its own max_fds, however many there are")
	return notes
}
