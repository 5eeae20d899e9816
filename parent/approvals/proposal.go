package approvals

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/journal"
)

// A proposal is a file for review: what a policy would have to say so that the question does not come again. raypherd never
// reads it, and never changes a policy.

// maxProposals bounds what lies there unread.
const maxProposals = 1000

// Proposal is one proposed change.
type Proposal struct {
	Name    string
	Path    string
	Content []byte
}

// propose writes the proposal for a question.
func (d *Desk) propose(one *open, who journal.Person) (string, error) {
	if err := os.MkdirAll(d.options.Proposals, 0o700); err != nil {
		return "", fmt.Errorf("folder of proposals: %w", err)
	}
	if entries, err := os.ReadDir(d.options.Proposals); err != nil || len(entries) >= maxProposals {
		return "", errors.Join(fmt.Errorf("%s: %d proposals wait for review: remove those that are done", d.options.Proposals, len(entries)), err)
	}
	path := filepath.Join(d.options.Proposals, time.Now().UTC().Format("20060102-150405")+"-"+one.ID+".yaml")
	if err := os.WriteFile(path, proposal(one, who), 0o600); err != nil {
		return "", fmt.Errorf("proposal: %w", err)
	}
	return path, nil
}

// proposal is the content: YAML in which every word of the agent is quoted.
func proposal(one *open, who journal.Person) []byte {
	var b bytes.Buffer
	q := one.Question.Question
	fmt.Fprintf(&b, "# A proposed change of a policy. Nothing is in force by it: review it, change the policy, sign it where it is signed.\n")
	fmt.Fprintf(&b, "proposal: 1\nsubject: %s\nquestion: %s\n", quote(one.Subject), quote(strings.TrimSpace(q.Operation+" "+q.Target+" "+q.Other)))
	fmt.Fprintf(&b, "answered_by: {uid: %d, user: %s}\nasked_by_rule: %s\n", who.UID, quote(who.User), quote(q.Rule))
	section, list := lists(q.Operation)
	if section != "" {
		fmt.Fprintf(&b, "add:\n  %s:\n", section)
		for _, l := range list {
			fmt.Fprintf(&b, "    %s: [%s]\n", l, quote(pattern(section, q)))
		}
		fmt.Fprintf(&b, "remove:\n  %s:\n    require_approval: [%s]\n", section, quote(q.Rule))
	}
	if q.Rule != pattern(section, q) {
		fmt.Fprintf(&b, "# The rule that asks is wider than this target: put rules in its place that ask for the rest.\n")
	}
	return b.Bytes()
}

// lists says where a policy grants an operation.
func lists(operation string) (section string, list []string) {
	switch operation {
	case "open-read":
		return "filesystem", []string{"read"}
	case "open-read-write":
		return "filesystem", []string{"read", "write"}
	case "exec":
		return "filesystem", []string{"exec"}
	case "connect":
		return "network", []string{"egress"}
	}
	return "filesystem", []string{"write"}
}

func pattern(section string, q journal.Question) string {
	if section != "filesystem" {
		address, _, _ := strings.Cut(q.Target, "/")
		return address
	}
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "{", `\{`, "}", `\}`, ",", `\,`, "[", `\[`, "]", `\]`).Replace(q.Target)
}

// quote writes a string of YAML, which takes those of JSON.
func quote(text string) string { return strconv.QuoteToASCII(text) }

// Proposals lists what was proposed, the oldest first.
func (d *Desk) Proposals() ([]Proposal, error) {
	entries, err := os.ReadDir(d.options.Proposals)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder of proposals: %w", err)
	}
	var all []Proposal
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		path := filepath.Join(d.options.Proposals, e.Name())
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("proposal: %w", err)
		}
		all = append(all, Proposal{e.Name(), path, content})
	}
	slices.SortFunc(all, func(a, b Proposal) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
