package conformance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Page is docs/conformance.md: what is tried, class by class, and what each backend does not hold.
func Page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	total := 0
	counts, order := classes()
	b.WriteString("| class | cases | holds |\n|---|---|---|\n")
	for _, class := range order {
		c := counts[class]
		total += c.cases
		holds := "both"
		if c.partly > 0 {
			holds = fmt.Sprintf("both, but for %d below", c.partly)
		}
		fmt.Fprintf(&b, "| %s | %d | %s |\n", class, c.cases, holds)
	}
	fmt.Fprintf(&b, "| **together** | **%d** | |\n\n", total)
	b.WriteString("## What one backend does not hold\n\n")
	if list := Unheld(); len(list) > 0 {
		b.WriteString("| case | holds | why |\n|---|---|---|\n")
		for _, c := range list {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Name, c.Holds(), c.Reason())
		}
	} else {
		b.WriteString("No case of the table. What no table can show is in [bypasses.md](bypasses.md#not-held).\n")
	}
	b.WriteString(pageKernels)
	b.WriteString("\n## The table\n")
	for _, s := range Settings() {
		if s.Dies && s.Name != "kill on read" {
			continue // they differ in nothing but the call
		}
		writeSetting(&b, s)
	}
	return b.String()
}

const pageHead = `# What holds

Made from the table in ` + "`test/conformance`" + ` by ` + "`go test ./test/conformance -run TestPage -update`" + `; a test keeps it current. Each case is one action of a program that makes
raw system calls, under a policy, as root and as a plain user. Checked are the call's answer, the verdict that is reported with its rule,
and what has changed, seen from outside: content, inode, mode, owner, times and attributes of every file around it, sockets that were
reached, another process of the same user, the host's mounts and settings. A case that is refused must change nothing at all.

What is played where: all of it by the programs as a person uses them, with the backend ` + "`broker`" + ` on the machine of the tests
(` + "`test/conformance.TestConformance`" + `), and files and programs again without a raypherd and without root (` + "`parent/launch.TestConformance`" + `).
Under the backend ` + "`lsm`" + ` all of it is played, by the same programs, in a virtual machine with Linux 6.12 (` + "`test/vm.TestTableInGuests`" + `, in
` + "`make test`" + `); what it comes to there, where that is something else though both hold it, is in brackets. ` + "`make test-vm`" + ` plays it on Linux 6.1 too, where it has not
passed as a whole yet: there the six cases that set or remove an attribute of a user and are let through are left out, because files in memory have none.

`

const pageKernels = `
Cases that are marked "6.12" need a kernel's scopes of Landlock or its hooks for unix sockets and are left out on older ones: there the warden decides
signals (` + "`parent/launch.TestOtherProcesses`" + `), and abstract sockets are not held ([threat-model.md](threat-model.md#not-covered)).
`

type count struct{ cases, partly int }

// classes counts the cases of each class, in the order of the table.
func classes() (counts map[string]*count, order []string) {
	counts = map[string]*count{}
	for _, s := range Settings() {
		for _, section := range s.Sections {
			if counts[section.Class] == nil {
				counts[section.Class] = &count{}
				order = append(order, section.Class)
			}
			for _, c := range section.Cases {
				counts[section.Class].cases++
				if c.holds != "" {
					counts[section.Class].partly++
				}
			}
		}
	}
	return counts, order
}

// Unheld are the cases that one backend does not hold.
func Unheld() (list []Case) {
	for _, s := range Settings() {
		for _, section := range s.Sections {
			for _, c := range section.Cases {
				if c.holds != "" {
					list = append(list, c)
				}
			}
		}
	}
	return list
}

func writeSetting(b *strings.Builder, s Setting) {
	fmt.Fprintf(b, "\n### %s\n\n```yaml\n%s\n```\n", s.Name, strings.TrimSpace(clip(s.Policy, 3000)))
	for _, section := range s.Sections {
		fmt.Fprintf(b, "\n**%s**\n\n| case | answer | changes | reported |\n|---|---|---|---|\n", section.Class)
		for _, c := range section.Cases {
			name := c.Name
			if c.scoped {
				name += " (6.12)"
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s |\n", cell(name), cell(c.Want), cell(c.Effect), cell(c.Report)+c.apart())
		}
	}
}

// apart says what a case comes to under lsm, where that is something else though both hold it.
func (c Case) apart() string {
	switch {
	case c.modes:
		return " (lsm: to a user nothing, the file's mode refuses)"
	case c.lsm == nil:
		return ""
	}
	var differs []string
	if c.lsm.want != c.Want {
		differs = append(differs, c.lsm.want)
	}
	if c.lsm.effect != c.Effect {
		differs = append(differs, c.lsm.effect)
	}
	if c.lsm.report != c.Report {
		differs = append(differs, cmp.Or(c.lsm.report, "nothing is reported"))
	}
	return " (lsm: " + cell(strings.Join(differs, ", ")) + ")"
}

// clip cuts a text that says no more at its end than at its beginning.
func clip(text string, most int) string {
	lines := strings.Split(text, "\n")
	if len(text) <= most {
		return text
	}
	return strings.Join(slices.Concat(lines[:12], []string{"    # and a pattern in a folder of its own for each case"}), "\n")
}

// cell is a text in a table of Markdown.
func cell(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > 140 {
		text = strings.ToValidUTF8(text[:137], "") + "..."
	}
	return strings.NewReplacer("|", `\|`, "\n", " ", "*", `\*`, "<", "&lt;").Replace(text)
}
