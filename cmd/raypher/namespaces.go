package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// namespaceJSON is a namespace as `raypher status --json` prints it.
type namespaceJSON struct {
	Namespace string     `json:"namespace"`
	Agents    amountJSON `json:"agents"`
	MemoryMB  amountJSON `json:"memory_mb"`
	Processes amountJSON `json:"processes"`
	FDs       amountJSON `json:"fds"`
}

type amountJSON struct {
	Used    uint64  `json:"used"`    // by agents with a limit of their own
	Limit   *uint64 `json:"limit"`   // null: none
	Endless bool    `json:"endless"` // an agent without a limit of its own runs
}

func namespaceLines(all []*parentv1.NamespaceUse) []namespaceJSON {
	lines := []namespaceJSON{}
	amount := func(a *parentv1.NamespaceAmount) amountJSON {
		if a == nil {
			return amountJSON{}
		}
		return amountJSON{a.Used, a.Limit, a.Endless}
	}
	for _, u := range all {
		lines = append(lines, namespaceJSON{u.GetNamespace(), amount(u.Agents), amount(u.MemoryMb), amount(u.Processes), amount(u.Fds)})
	}
	return lines
}

// printNamespaces says what namespaces have given to their agents, by the agents' own limits.
func printNamespaces(out io.Writer, all []*parentv1.NamespaceUse) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tAGENTS\tMEMORY MB\tPROCESSES\tFDS")
	for _, line := range namespaceLines(all) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", evidence.Printable(line.Namespace), line.Agents, line.MemoryMB, line.Processes, line.FDs)
	}
	return table.Flush()
}

// String is the amount in a table.
func (a amountJSON) String() string {
	switch {
	case a.Limit == nil && a.Endless:
		return "no limit"
	case a.Limit == nil:
		return fmt.Sprint(a.Used)
	case a.Endless:
		return fmt.Sprintf("all of %d", *a.Limit)
	}
	return fmt.Sprintf("%d of %d", a.Used, *a.Limit)
}
