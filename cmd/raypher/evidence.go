package main

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/spf13/cobra"
)

func evidenceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "evidence",
		Short: "List, export and verify the proof of what the guard did",
		Long: `Every refused action is an entry of the enclave's journal. 'export' makes a self-contained bundle of one entry, and 'verify' checks
bundles and whole journals anywhere, offline. Root reads the journals of this host from disk, with or without a running raypherd; other
users ask raypherd, and so does root where RAYPHER_RUN_DIR names another than the host's.`,
	}
	c.AddCommand(evidenceListCommand(), evidenceExportCommand(), evidenceVerifyCommand(), evidenceKeyCommand())
	return c
}

// listItem is one verdict, or one answer of a person as if it were one, and its place.
type listItem struct {
	Epoch string `json:"epoch"`
	Index uint64 `json:"index"`
	journal.Verdict
	VisaID   string            `json:"visa_id,omitempty"` // in hexadecimal; hides the field of the verdict
	Approval *journal.Approval `json:"approval,omitempty"`
}

func (i *listItem) name() string { return fmt.Sprintf("%.8s:%d", i.Epoch, i.Index) }

// listFilter selects what is listed.
type listFilter struct {
	agent string
	since time.Duration
}

func (f *listFilter) start() time.Time {
	if f.since <= 0 {
		return time.Time{}
	}
	return time.Now().Add(-f.since)
}

func evidenceListCommand() *cobra.Command {
	var journals journalFlags
	var filter listFilter
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the verdicts and the answers of people in the journals of this host",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var items []listItem
			var err error
			if journals.onDisk() {
				items, err = listStored(&journals, &filter)
			} else {
				items, err = listFromDaemon(c.Context(), &filter)
			}
			if err == nil {
				items, err = ofAgent(filter.agent, items)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printLines(c.OutOrStdout(), items)
			}
			return printItems(c.OutOrStdout(), items)
		},
	}
	journals.add(c.Flags())
	c.Flags().StringVar(&filter.agent, "agent", "", "only agents of this id, beginning of an id, or name")
	c.Flags().DurationVar(&filter.since, "since", 0, "only entries of the last period, for example 10m")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per line")
	return c
}

func listStored(journals *journalFlags, filter *listFilter) ([]listItem, error) {
	stores, err := journals.open()
	if err != nil {
		return nil, err
	}
	return verdictsIn(stores, filter)
}

// verdictsIn returns the verdicts of some journals by their time.
func verdictsIn(stores []storedJournal, filter *listFilter) ([]listItem, error) {
	var items []listItem
	for _, store := range stores {
		selected := audit.Filter{Types: []journal.Type{journal.TypeVerdict, journal.TypeApproval}, Since: filter.start()}
		for record, err := range store.Entries(selected) {
			if err != nil {
				return nil, err
			}
			newItem := newListItem
			if record.Entry.Type == journal.TypeApproval {
				newItem = newApprovalItem
			}
			item, err := newItem(record.Epoch.String(), record.Index, record.Entry.Payload)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
	}
	slices.SortStableFunc(items, func(a, b listItem) int { return int(min(1, max(-1, a.Time-b.Time))) })
	return items, nil
}

func newListItem(epoch string, index uint64, verdict []byte) (listItem, error) {
	v, err := journal.DecodeVerdict(verdict)
	if err != nil {
		return listItem{}, fmt.Errorf("entry %s:%d: %w", epoch, index, err)
	}
	return listItem{Epoch: epoch, Index: index, Verdict: v, VisaID: hex.EncodeToString(v.VisaID)}, nil
}

// newApprovalItem shows who answered as the layer.
func newApprovalItem(epoch string, index uint64, approval []byte) (listItem, error) {
	a, err := journal.DecodeApproval(approval)
	if err != nil {
		return listItem{}, fmt.Errorf("entry %s:%d: %w", epoch, index, err)
	}
	q := a.Question
	v := journal.Verdict{
		Time: a.Time, AgentID: a.AgentID, Subject: a.Subject, PID: q.PID, Comm: q.Comm, Decision: a.Decision,
		Layer: journal.LayerApproval, Operation: q.Operation, Target: q.Target, Rule: q.Rule, Count: 1, VisaID: a.VisaID,
	}
	if a.Who != nil {
		v.Layer = "user " + a.Who.User
	}
	a.VisaID = nil // it stands beside, in hexadecimal as everywhere
	return listItem{Epoch: epoch, Index: index, Verdict: v, VisaID: hex.EncodeToString(v.VisaID), Approval: a}, nil
}

func printLines(out io.Writer, items []listItem) error {
	var text bytes.Buffer
	for i := range items {
		line, err := jsonLine(&items[i])
		if err != nil {
			return err
		}
		text.Write(line)
	}
	_, err := out.Write(text.Bytes())
	return err
}

func printItems(out io.Writer, items []listItem) error {
	if len(items) == 0 {
		_, err := fmt.Fprintln(out, "no verdicts")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tENTRY\tDECISION\tOPERATION\tTARGET\tCOUNT\tLAYER\tAGENT\tNAME")
	for i := range items {
		v := &items[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", time.Unix(0, v.Time).Format("2006-01-02 15:04:05"), v.name(), v.Decision,
			evidence.Printable(v.Operation), evidence.Printable(v.Target), v.Count, evidence.Printable(v.Layer), evidence.Printable(v.AgentID),
			evidence.Printable(nameIn(v.Subject)))
	}
	return table.Flush()
}

func evidenceExportCommand() *cobra.Command {
	var journals journalFlags
	var out, agent string
	var all bool
	c := &cobra.Command{
		Use:   "export INDEX|EPOCH:INDEX -o FILE | export --all [--agent ID] -o FOLDER",
		Short: "Write self-contained proofs of entries",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("evidence export: name one entry, or say --all")
			}
			if agent != "" && !all {
				return errors.New("evidence export: --agent chooses among all verdicts: say --all")
			}
			if out == "" && all {
				out = "."
			}
			if out == "" {
				return errors.New("evidence export: name the file to write with -o; - is standard output")
			}
			if all {
				return exportAll(c, &journals, agent, out)
			}
			name, err := parseEntryName(args[0])
			if err != nil {
				return err
			}
			export := exportFromDaemon
			if journals.onDisk() {
				export = func(c *cobra.Command, n entryName) ([]byte, error) { return exportStored(&journals, n) }
			}
			bundle, err := export(c, name)
			if err != nil {
				return err
			}
			if out == "-" {
				_, err = c.OutOrStdout().Write(bundle)
				return err
			}
			return os.WriteFile(out, bundle, 0o644)
		},
	}
	journals.add(c.Flags())
	c.Flags().StringVarP(&out, "output", "o", "", "file to write; with --all the folder (default: the current one)")
	c.Flags().BoolVar(&all, "all", false, "every verdict, each in a file of its own")
	c.Flags().StringVar(&agent, "agent", "", "with --all: only agents of this id, beginning of an id, or name")
	return c
}

func exportStored(journals *journalFlags, name entryName) ([]byte, error) {
	stores, err := journals.open()
	if err != nil {
		return nil, err
	}
	store, epoch, err := name.find(stores)
	if err != nil {
		return nil, err
	}
	bundle, err := store.Export(epoch, name.index)
	if err != nil {
		return nil, err
	}
	return bundle.Encode()
}

// exportAll writes <first 8 digits of the epoch>-<index>.evidence for each verdict and prints the names.
func exportAll(c *cobra.Command, journals *journalFlags, agent, folder string) error {
	if os.Geteuid() != 0 && !journals.named() {
		return errors.New("evidence export --all: reads the journals of this host from disk: run it as root, or name a folder that you can read with --state-dir")
	}
	stores, err := journals.open()
	if err != nil {
		return err
	}
	var items []listItem
	in := map[string]storedJournal{} // by epoch
	for _, store := range stores {
		for _, epoch := range store.Epochs() {
			in[epoch.String()] = store
		}
	}
	if items, err = verdictsIn(stores, &listFilter{}); err == nil {
		items, err = ofAgent(agent, items)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var names bytes.Buffer
	for i := range items {
		name := filepath.Join(folder, fmt.Sprintf("%.8s-%d.evidence", items[i].Epoch, items[i].Index))
		if err := exportTo(name, in[items[i].Epoch].Store, &items[i]); err != nil {
			return err
		}
		fmt.Fprintln(&names, name)
	}
	_, err = c.OutOrStdout().Write(names.Bytes())
	return err
}

func exportTo(file string, store *audit.Store, item *listItem) error {
	epoch, err := hex.DecodeString(item.Epoch)
	if err != nil {
		return err
	}
	bundle, err := store.Export(journal.EpochID(epoch), item.Index)
	if err != nil {
		return err
	}
	data, err := bundle.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

func evidenceVerifyCommand() *cobra.Command {
	var trust trustFlags
	var hardware evidenceFlags
	var folder string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify FILE... | verify --journal FOLDER",
		Short: "Check bundles, or a whole journal, offline",
		Long: `Check bundles, or a whole journal, offline: the evidence behind the enclave's key, the signature of the tree head, the proof that the
entry lies under it, and the visa in the bundle. With --enclave-key only the given keys are trusted. Without it the bundle's own key
evidence decides; for the tier software that evidence is the key's own word, and the output says so. Exit code 1 names the check
that failed, and nothing is printed on standard output.`,
		RunE: func(c *cobra.Command, files []string) error {
			keys, err := trust.parse()
			if err != nil {
				return err
			}
			verifiers, err := hardware.verifiers(c.Flags(), len(keys) > 0)
			if err != nil {
				return fmt.Errorf("evidence verify: %w", err)
			}
			options := evidence.Options{Keys: keys, AllowSoftware: trust.allowSoftware, Verifiers: verifiers}
			if folder != "" && len(files) == 0 {
				return verifyJournal(c.OutOrStdout(), folder, options, asJSON)
			}
			if folder != "" || len(files) == 0 {
				return errors.New("evidence verify: name bundles, or one journal with --journal")
			}
			return verifyBundles(c.OutOrStdout(), files, options, asJSON)
		},
	}
	trust.add(c.Flags())
	hardware.add(c.Flags())
	c.Flags().StringVar(&folder, "journal", "", "check the whole journal in this folder: every head, and the chain of epochs")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// verifiedFile is one bundle that holds.
type verifiedFile struct {
	File string `json:"file"`
	evidence.View
}

func verifyBundles(out io.Writer, files []string, options evidence.Options, asJSON bool) error {
	var views []verifiedFile
	for _, file := range files {
		data, err := readBounded(file, evidence.MaxSize)
		if err != nil {
			return err
		}
		proven, err := evidence.Verify(data, options)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		views = append(views, verifiedFile{file, proven.View()})
	}
	if asJSON {
		return printJSON(out, views)
	}
	for _, v := range views {
		if _, err := fmt.Fprintf(out, "%s: proven\n", v.File); err != nil {
			return err
		}
		if err := v.Print(out); err != nil {
			return err
		}
	}
	return nil
}

// epochLine is one epoch of a journal that holds.
type epochLine struct {
	Epoch   string    `json:"epoch"`
	Tier    string    `json:"tier"`
	Key     string    `json:"enclave_key"`
	Pinned  bool      `json:"enclave_key_pinned"`
	Entries uint64    `json:"entries"`
	Heads   int       `json:"heads"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"last_head"`
}

func verifyJournal(out io.Writer, folder string, options evidence.Options, asJSON bool) error {
	if inner := filepath.Join(folder, "journal"); isFolder(inner) {
		folder = inner // the state folder was named
	}
	store, err := audit.OpenReadOnly(folder)
	if err != nil {
		return err
	}
	reports, err := store.Verify(options)
	if err != nil {
		return fmt.Errorf("journal %s: %w", folder, err)
	}
	if len(reports) == 0 {
		return fmt.Errorf("journal %s: it holds no epoch", folder)
	}
	var lines []epochLine
	for _, r := range reports {
		lines = append(lines, epochLine{r.Epoch.String(), r.Tier, r.Key.String(), r.Pinned, r.Entries, r.Heads, time.Unix(0, r.Began).UTC(), time.Unix(0, r.Ended).UTC()})
	}
	if asJSON {
		return printJSON(out, lines)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "EPOCH\tENTRIES\tHEADS\tTIER\tKEY\tPINNED\tBEGAN\tLAST HEAD")
	for _, l := range lines {
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%.16s\t%v\t%s\t%s\n", l.Epoch, l.Entries, l.Heads, l.Tier, l.Key, l.Pinned, l.Began.Format(time.RFC3339), l.Ended.Format(time.RFC3339))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "every head and the chain of %d epochs hold\n", len(lines))
	return err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func evidenceKeyCommand() *cobra.Command {
	var journals journalFlags
	c := &cobra.Command{
		Use:   "key",
		Short: "Print the enclave keys of this host's journals in PEM, for --enclave-key elsewhere",
		Long: `Print the enclave keys of this host's journals in PEM. Carry the output to where visas and evidence are verified, over a way that you
trust: a verifier that pins a key believes whoever gave it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !journals.onDisk() {
				key, err := keyFromDaemon(c.Context())
				if err != nil {
					return err
				}
				return pem.Encode(c.OutOrStdout(), &pem.Block{Type: pemType, Bytes: key.PKIX()})
			}
			stores, err := journals.open()
			if err != nil {
				return err
			}
			var text bytes.Buffer
			seen := map[[32]byte]bool{}
			for _, store := range stores {
				for _, epoch := range store.Epochs() {
					key := store.EpochKey(epoch)
					if seen[key.ID()] {
						continue
					}
					seen[key.ID()] = true
					if err := pem.Encode(&text, &pem.Block{Type: pemType, Bytes: key.PKIX()}); err != nil {
						return err
					}
				}
			}
			_, err = c.OutOrStdout().Write(text.Bytes())
			return err
		},
	}
	journals.add(c.Flags())
	return c
}
