package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Explanation says in plain words what a policy grants, refuses and does not govern.
type Explanation struct {
	Lines    []Line   `json:"lines"`
	Warnings []string `json:"warnings"`
}

// Line is one row: an action, what the policy says to it, and for what.
type Line struct {
	Action string `json:"action"` // for example "read files"
	Says   string `json:"says"`   // granted, refused, asks a person, not governed, limited, logged
	What   string `json:"what"`
}

// What a line says.
const (
	saysGranted     = "granted"
	saysRefused     = "refused"
	saysAsks        = "asks a person"
	saysNotGoverned = "not governed"
	saysLimited     = "limited"
	saysLogged      = "logged"
)

// Explain describes p. Its warnings are opinions about grants that undo other rules or reach secrets; the list is not
// complete, and no warning is no proof of a good policy.
func (p *Policy) Explain() Explanation {
	var e Explanation
	e.files(p.Filesystem)
	e.network(p.Network)
	e.approval(p)
	e.syscalls(p)
	e.resources(p.Resources)
	e.Warnings = p.warnings()
	return e
}

func (e *Explanation) say(action, says, what string) {
	e.Lines = append(e.Lines, Line{action, says, what})
}

// each says the same of every item, or says what holds for an empty list.
func (e *Explanation) each(action, says string, items []string, empty, emptyWhat string) {
	if len(items) == 0 && empty != "" {
		e.say(action, empty, emptyWhat)
	}
	for _, item := range items {
		e.say(action, says, item)
	}
}

func (e *Explanation) files(f *Filesystem) {
	if f == nil {
		e.say("files and programs", saysNotGoverned, "all that the agent's user may use (no filesystem section)")
		return
	}
	e.each("read files", saysGranted, f.Read, "", "")
	for _, program := range f.Exec {
		e.say("read files", saysGranted, program+" (exec implies read)")
	}
	if len(f.Read)+len(f.Exec) == 0 {
		e.say("read files", saysRefused, "all")
	} else {
		e.say("read files", saysRefused, "all others")
	}
	e.each("write files", saysGranted, f.Write, saysRefused, "all")
	if len(f.Write) > 0 {
		e.say("write files", saysRefused, "all others")
	}
	programs := slices.Clone(f.Exec)
	for i, path := range programs {
		if sum, has := f.Hashes[path]; has {
			programs[i] = path + " with the SHA-256 " + sum
		}
	}
	e.each("execute", saysGranted, programs, saysRefused, "all")
	if len(f.Exec) > 0 {
		e.say("execute", saysRefused, "all others")
	}
	if f.Static {
		e.say("refusals of files", "not recorded", "where Landlock alone decides (static)")
	}
	e.each("any access", saysRefused, f.Deny, "", "")
	e.each("any granted access", saysAsks, f.RequireApproval, "", "")
}

func (e *Explanation) network(n *Network) {
	if n == nil {
		e.say("connect", saysRefused, "all (no network section)")
		e.say("listen", saysRefused, "all")
		e.say("connect to unix sockets", saysRefused, "all")
		return
	}
	if n.Isolate {
		e.say("network namespace", "its own", "its loopback is no other program's, and all that leaves is held again on the host (isolate)")
	}
	e.each("connect", saysGranted, n.Egress, "", "")
	if n.Unmetered == UnmeteredAllow {
		e.say("calls of models", saysGranted, "past the gateway too, where nothing counts what they cost (unmetered)")
	}
	e.each("connect", saysAsks, n.RequireApproval, "", "")
	refused := saysRefused
	how := "all others, in silence"
	if n.OnDeny == Reject {
		how = "all others, with an error"
	}
	if len(n.Egress)+len(n.RequireApproval) == 0 {
		how = strings.Replace(how, "all others", "all", 1)
	}
	if n.DefaultAction == Allow {
		refused, how = saysGranted, "all others but reserved addresses (default_action: allow)"
	}
	e.say("connect", refused, how)
	e.each("listen", saysGranted, n.Listen, "", "")
	e.each("flows from outside", saysGranted, n.ingressWords(), "", "")
	if len(n.Listen)+len(n.Ingress) == 0 {
		e.say("listen", saysRefused, "all")
	}
	e.each("connect to unix sockets", saysGranted, n.Unix, saysRefused, "all")
}

func (e *Explanation) syscalls(p *Policy) {
	for _, name := range sortedKeys(p.Syscalls) {
		says := map[SyscallAction]string{SyscallAllow: saysGranted, SyscallDeny: saysRefused, SyscallLog: saysLogged}[p.Syscalls[name]]
		what := name
		if p.Syscalls[name] == SyscallAllow && !RefusedUnlessAllowed(name) {
			what += " (where the base filter has it)"
		}
		e.say("system call", says, what)
	}
	e.say("system calls", saysNotGoverned, "all others that the base filter leaves")
}

func (e *Explanation) resources(r *Resources) {
	if r == nil {
		r = &Resources{}
	}
	for _, limit := range []struct {
		value *uint64
		unit  string
	}{{r.MaxFDs, "open files per process"}, {r.MaxMemoryMB, "MiB of memory"}, {r.MaxProcesses, "processes and threads"}} {
		if limit.value == nil {
			e.say("resources", saysNotGoverned, limit.unit)
			continue
		}
		e.say("resources", saysLimited, fmt.Sprintf("%d %s", *limit.value, limit.unit))
	}
}

// Paths whose grant deserves a word. ~ stands for a home folder that warnings expand for themselves.
var (
	secretPaths = []string{
		"~/.ssh/id_ed25519", "~/.ssh/id_rsa", "~/.aws/credentials", "~/.config/gcloud/credentials.db", "~/.kube/config", "~/.netrc",
		"~/.gnupg/private-keys-v1.d/key", "~/.docker/config.json", "~/.git-credentials", "/etc/shadow", "/proc/1/environ",
	}
	startupPaths = []string{
		"~/.bashrc", "~/.profile", "~/.bash_profile", "~/.zshrc", "~/.ssh/authorized_keys", "~/.config/autostart/x.desktop",
		"~/.config/systemd/user/x.service", "~/.gitconfig", "~/.local/bin/x", "/etc/passwd", "/etc/cron.d/x",
		"/etc/systemd/system/x.service", "/etc/ld.so.preload", "/usr/local/bin/x",
	}
	interpreterPaths = []string{
		"/bin/sh", "/usr/bin/sh", "/bin/bash", "/usr/bin/bash", "/usr/bin/dash", "/usr/bin/zsh", "/usr/bin/python3", "/usr/bin/perl",
		"/usr/bin/ruby", "/usr/bin/node", "/usr/bin/env",
	}
	powerfulSockets = []string{
		"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
		"/run/dbus/system_bus_socket", "/run/systemd/private", "/run/user/1000/bus",
	}
	// Services that resolve names for whoever asks, past the DNS forwarder.
	resolverSockets = []string{
		"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket", "/run/avahi-daemon/socket",
	}
)

const sampleHome = "/home/agent"

func (p *Policy) warnings() []string {
	var w []string
	warn := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if p.Mode == Audit || p.Mode == Permissive {
		warn("mode %s refuses nothing", p.Mode)
	}
	allowsAll := p.Network != nil && p.Network.DefaultAction == Allow
	expanded, err := p.Expand(sampleHome)
	if err != nil {
		return w
	}
	if p.Filesystem == nil {
		warn("files are not governed: the agent reads, writes and executes all that its user may; as root, or by writing what its " +
			"user's logins run, it can start programs that no guard holds")
		if allowsAll {
			warn("default_action allow and no filesystem section: everything that the agent's user can read can leave the machine")
		}
	} else {
		w = append(w, expanded.fileWarnings(allowsAll)...)
	}
	if n := expanded.Network; n != nil {
		if allowsAll {
			warn("default_action allow: the egress list restricts nothing")
		}
		for _, e := range n.Endpoints() {
			if e.Host == "" && e.Prefix.Bits() == 0 {
				warn("egress %s reaches every address of its family", e.Rule)
			}
			if e.Private && strings.HasPrefix(e.Host, "*.") {
				warn("egress %s: whoever answers for names below it chooses which of your private addresses the agent reaches", e.Rule)
			}
		}
		for _, socket := range powerfulSockets {
			if rule, ok := n.MatchUnix(socket); ok {
				warn("unix %s grants %s, whose service acts with other rights than the agent's", rule, socket)
			}
		}
		for _, socket := range resolverSockets {
			if rule, ok := n.MatchUnix(socket); ok {
				warn("unix %s grants %s, which resolves every name: a question carries data to whoever answers for it", rule, socket)
			}
		}
	}
	return w
}

// fileWarnings are those about an expanded filesystem section.
func (p *Policy) fileWarnings(allowsAll bool) []string {
	var w []string
	rules := p.FileRules()
	note := func(paths []string, a Access, format string) {
		byRule := map[string][]string{}
		for _, path := range paths {
			path = strings.Replace(path, "~", sampleHome, 1)
			if d := rules.Decide(path, a); d.Verdict == VerdictAllow {
				byRule[d.Rule] = append(byRule[d.Rule], path)
			}
		}
		for _, rule := range sortedKeys(byRule) {
			w = append(w, asWritten(fmt.Sprintf(format, rule, strings.Join(byRule[rule], ", "))))
		}
	}
	note(secretPaths, Read, "read %s reaches secrets: %s")
	note(startupPaths, Write, "write %s reaches what other programs run or trust: %s")
	if allowsAll {
		note(interpreterPaths, Exec, "exec %s with default_action allow: a shell or interpreter can send all that it reads anywhere: %s")
	}
	f := p.Filesystem
	writable := newAutomaton()
	for l := range listCount {
		for _, text := range f.patterns(l) {
			writable.add(text, l.bit())
		}
	}
	for _, text := range f.Exec {
		if _, hashed := f.Hashes[text]; hashed {
			continue // it is never written
		}
		example, found, ok := writable.search(text, func(m mask) bool { return m.verdict(Write) == VerdictAllow && m&listApproval.bit() == 0 }, nil)
		if found || !ok {
			w = append(w, asWritten(fmt.Sprintf("exec %s may also be written, for example %s: the agent can execute what it writes", text, example)))
		}
	}
	return append(w, f.uselessRules(writable)...)
}

// uselessRules are rules that their own policy's deny list undoes.
func (f *Filesystem) uselessRules(all *automaton) []string {
	var w []string
	for _, l := range []list{listRead, listWrite, listExec, listApproval} {
		for _, text := range f.patterns(l) {
			denied := func(m mask) bool { return m&listDeny.bit() != 0 }
			if _, left, ok := all.search(text, func(m mask) bool { return !denied(m) }, denied); ok && !left {
				w = append(w, asWritten(fmt.Sprintf("%s %s has no effect: deny refuses all of it", l, text)))
			}
		}
	}
	return w
}

// asWritten puts ~ back where the sample home was.
func asWritten(text string) string { return strings.ReplaceAll(text, sampleHome, "~") }
