package cost

// Limits are the caps of one level; nil is no cap of its own, so the wider ones bound it alone.
type Limits struct {
	Budget            *Amount // micro-dollars: of a month, of a run for its whole life
	RequestsPerMinute *uint64
	TokensPerDay      *uint64
}

// Everyone is the name of a namespace or an agent that stands for each one that is not named, each by itself.
const Everyone = "*"

// Limits returns the caps above a call, widest first: host, namespace, agent, run.
func (c *Control) Limits(namespace, agent string) (all [4]Limits) {
	all[0], all[3] = c.Host, c.PerRun
	n, ok := named(c.Namespaces, namespace)
	if !ok {
		return all
	}
	all[1], all[3] = n.Limits, all[3].narrowed(n.PerRun)
	if a, ok := named(n.Agents, agent); ok {
		all[2], all[3] = a.Limits, all[3].narrowed(a.PerRun)
	}
	return all
}

func named[T any](all map[string]T, name string) (T, bool) {
	if found, ok := all[name]; ok {
		return found, true
	}
	found, ok := all[Everyone]
	return found, ok
}

// narrowed takes from inner what it says, which is never wider, and the rest from l.
func (l Limits) narrowed(inner Limits) Limits {
	if inner.Budget != nil {
		l.Budget = inner.Budget
	}
	if inner.RequestsPerMinute != nil {
		l.RequestsPerMinute = inner.RequestsPerMinute
	}
	if inner.TokensPerDay != nil {
		l.TokensPerDay = inner.TokensPerDay
	}
	return l
}
