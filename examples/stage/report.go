package stage

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/raypher/raypher/examples/scripted"
)

// report prints the table, and returns how many steps differ from the script.
func report(w io.Writer, outcomes []Outcome) (differ int) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\n#\tWHAT WAS TRIED\tPOLICY\tWITHOUT GUARD\tUNDER GUARD\tHELD BY\tEVIDENCE\t")
	for i := range outcomes {
		o := &outcomes[i]
		layer, entry, mark := "", "", ""
		if o.Evidence != nil {
			layer, entry = o.Evidence.Layer, o.Evidence.Name()
		}
		if len(o.Problems) > 0 {
			differ++
			mark = "<-- differs"
		}
		what := o.Step.Name
		if o.Step.Injected {
			what = "! " + what
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			i+1, what, o.Step.Expect.Verdict, dash(o.Ungoverned), dash(o.Verdict), dash(layer), dash(entry), mark)
	}
	table.Flush()
	fmt.Fprintln(w, "\n! = injected: what a model would do that a prompt injection has taken over")
	for i := range outcomes {
		for _, problem := range outcomes[i].Problems {
			fmt.Fprintf(w, "step %d (%s): %s\n", i+1, outcomes[i].Step.Name, problem)
		}
	}
	return differ
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func blank(script *scripted.Script) []Outcome {
	outcomes := make([]Outcome, len(script.Steps))
	for i := range outcomes {
		outcomes[i].Step = &script.Steps[i]
	}
	return outcomes
}
