package cost

import (
	"fmt"
	"maps"
	"slices"

	"github.com/raypher/raypher/internal/strictyaml"
)

// inclusion reports each limit that is wider than one around it: it would never be what refuses a call, so whoever wrote it believes
// something that does not hold.
func (d decoder) inclusion(c *Control) {
	d.within("", c.Host, "per_run", c.PerRun, "budget_usd")
	for _, name := range slices.Sorted(maps.Keys(c.Namespaces)) {
		n := c.Namespaces[name]
		at := place("namespaces." + name)
		run := c.PerRun.narrowed(n.PerRun)
		d.within("the host's", c.Host, at, n.Limits, "monthly_budget_usd")
		d.within("the host's", c.Host, at+".per_run", n.PerRun, "budget_usd")
		d.within("every run's", c.PerRun, at+".per_run", n.PerRun, "budget_usd")
		d.within("its namespace's", n.Limits, at+".per_run", n.PerRun, "budget_usd")
		for _, agent := range slices.Sorted(maps.Keys(n.Agents)) {
			a := n.Agents[agent]
			at := at + ".agents." + place(agent)
			d.within("the host's", c.Host, at, a.Limits, "monthly_budget_usd")
			d.within("its namespace's", n.Limits, at, a.Limits, "monthly_budget_usd")
			for _, outer := range []struct {
				whose string
				Limits
			}{{"the host's", c.Host}, {"its namespace's", n.Limits}, {"its agent's", a.Limits}, {"every run's", run}} {
				d.within(outer.whose, outer.Limits, at+".per_run", a.PerRun, "budget_usd")
			}
		}
	}
}

// within reports what is wider in inner than in outer.
func (d decoder) within(whose string, outer Limits, at place, inner Limits, budget place) {
	if whose == "" {
		whose = "the host's"
	}
	wider := func(key place, is, most string) {
		if d.seen[string(at+"."+key)] != "" { // said once, for the narrowest
			return
		}
		d.seen[string(at+"."+key)] = at
		d.Report(at+"."+key, strictyaml.Faultf("use at most "+most, "%s is more than %s %s", is, whose, most))
	}
	if o, i := outer.Budget, inner.Budget; o != nil && i != nil && *i > *o {
		wider(budget, i.String(), o.String())
	}
	if o, i := outer.RequestsPerMinute, inner.RequestsPerMinute; o != nil && i != nil && *i > *o {
		wider("requests_per_minute", fmt.Sprint(*i), fmt.Sprint(*o))
	}
	if o, i := outer.TokensPerDay, inner.TokensPerDay; o != nil && i != nil && *i > *o {
		wider("tokens_per_day", fmt.Sprint(*i), fmt.Sprint(*o))
	}
}
