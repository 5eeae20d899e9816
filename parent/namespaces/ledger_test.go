package namespaces

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/raypher/raypher/policy"
)

// share makes one out of a policy's resources; 0: no limit.
func share(namespace, name string, memory, processes, fds uint64) Share {
	limit := func(n uint64) *uint64 {
		if n == 0 {
			return nil
		}
		return &n
	}
	return ShareOf(namespace, name, &policy.Policy{Resources: &policy.Resources{MaxMemoryMB: limit(memory), MaxProcesses: limit(processes), MaxFDs: limit(fds)}})
}

const limited = `namespaces:
  dev: {max_agents: 3, max_memory_mb: 1000, max_processes: 100, max_fds: 5000}
  memory: {max_memory_mb: 1000}
  closed: {max_agents: 0}
  "*": {max_agents: 1}
`

func TestClaim(t *testing.T) {
	for name, tt := range map[string]struct {
		running []Share
		claim   Share
		want    []string // of the refusal; nil: there is room
	}{
		"all of it":         {nil, share("dev", "a", 1000, 100, 50), nil},
		"beyond memory":     {nil, share("dev", "a", 1001, 100, 50), []string{"no room in namespace dev (namespaces.yaml)", "max_memory_mb: the agent may use 1001, and 1000 of 1000 are left", "no agent runs in it"}},
		"beyond processes":  {nil, share("dev", "a", 1, 101, 1), []string{"max_processes: the agent may use 101"}},
		"beyond fds":        {nil, share("dev", "a", 1, 100, 51), []string{"max_fds: the agent may use 5100 (max_fds for each of max_processes), and 5000 of 5000 are left"}},
		"what is left":      {[]Share{share("dev", "b", 600, 50, 50)}, share("dev", "a", 400, 50, 50), nil},
		"more than is left": {[]Share{share("dev", "b", 600, 50, 50)}, share("dev", "a", 401, 50, 51), []string{"401, and 400 of 1000 are left", "max_fds: the agent may use 2550", "2500 of 5000 are left", "b (id0) max_memory_mb 600 max_processes 50 max_fds 2500", "raypher agents stop"}},
		"without a limit":   {nil, share("memory", "a", 0, 1, 1), []string{"max_memory_mb: the agent has no limit of its own, and 1000 of 1000 are left", "resources"}},
		"fds without processes": {nil, share("dev", "a", 1, 0, 1), []string{
			"max_processes: the agent has no limit of its own", "max_fds: the agent has no limit of its own (max_fds for each of max_processes)"}},
		"no resources":           {nil, ShareOf("memory", "a", &policy.Policy{}), []string{"no limit of its own"}},
		"only what is limited":   {nil, share("memory", "a", 1000, 0, 0), nil},
		"the third":              {[]Share{share("dev", "b", 1, 1, 1), share("dev", "c", 1, 1, 1)}, share("dev", "a", 1, 1, 1), nil},
		"one agent too many":     {[]Share{share("dev", "b", 1, 1, 1), share("dev", "c", 1, 1, 1), share("dev", "d", 1, 1, 1)}, share("dev", "a", 1, 1, 1), []string{"max_agents: 3 of 3 run", "b (id0)", "d (id2)"}},
		"beside one without":     {[]Share{share("memory", "b", 0, 0, 0)}, share("memory", "a", 1, 1, 1), []string{"0 of 1000 are left", "b (id0) without max_memory_mb"}},
		"beside too much":        {[]Share{share("memory", "b", 3000, 0, 0)}, share("memory", "a", 1, 1, 1), []string{"0 of 1000 are left"}},
		"others harm nobody":     {[]Share{share("dev", "b", 1000, 100, 50), share("x", "c", 0, 0, 0)}, share("memory", "a", 1000, 1, 1), nil},
		"closed":                 {nil, share("closed", "a", 1, 1, 1), []string{"max_agents: 0 of 0 run"}},
		"each other by itself":   {[]Share{share("x", "b", 0, 0, 0)}, share("y", "a", 0, 0, 0), nil},
		"another of an other":    {[]Share{share("x", "b", 0, 0, 0)}, share("x", "a", 0, 0, 0), []string{"max_agents: 1 of 1 run"}},
		"sums that overflow":     {[]Share{share("memory", "b", math.MaxUint64, 1, 1), share("memory", "c", 2, 1, 1)}, share("memory", "a", 1, 1, 1), []string{"0 of 1000"}},
		"products that overflow": {nil, share("dev", "a", 1, 1<<40, 1<<40), []string{fmt.Sprint(uint64(math.MaxUint64))}},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLedger(file(t, limited))
			for i, s := range tt.running {
				l.Keep(fmt.Sprint("id", i), s)
			}
			err := l.Claim("new", tt.claim)
			if tt.want == nil {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrNoRoom) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestWithoutLimitsEverybodyFits(t *testing.T) {
	l := NewLedger(nil)
	if err := errors.Join(l.Room(Share{Namespace: "dev"}), l.Claim("a", Share{Namespace: "dev"}), l.Claim("b", Share{Namespace: "dev"})); err != nil {
		t.Error(err)
	}
}

// What surely does not fit is known before it is granted; what lacks a limit may be granted with one.
func TestRoom(t *testing.T) {
	l := NewLedger(file(t, limited))
	l.Keep("first", share("dev", "first", 900, 10, 1))
	for _, tt := range []struct {
		share Share
		room  bool
	}{
		{share("dev", "a", 100, 90, 1), true},
		{share("dev", "a", 101, 90, 1), false},
		{share("dev", "a", 0, 0, 0), true},
		{share("dev", "a", 0, 91, 0), false},
		{share("closed", "a", 0, 0, 0), false},
	} {
		if err := l.Room(tt.share); (err == nil) != tt.room {
			t.Errorf("%+v: %v", tt.share, err)
		}
	}
	if u := l.use("dev"); u.Agents.Used != 1 {
		t.Errorf("asking took something: %+v", u)
	}
}

// Of many that want the last share at once one gets it, and what an agent gives back is there again.
func TestClaimsAtOnce(t *testing.T) {
	l := NewLedger(file(t, limited))
	l.Keep("first", share("memory", "first", 500, 0, 0))
	for range 50 {
		var claims sync.WaitGroup
		var mu sync.Mutex
		var got []string
		for i := range 8 {
			claims.Go(func() {
				id := fmt.Sprint("id", i)
				if l.Claim(id, share("memory", "a", 500, 0, 0)) == nil {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, id)
				}
			})
		}
		claims.Wait()
		if len(got) != 1 {
			t.Fatalf("%q have the last share", got)
		}
		if l.Room(Share{Namespace: "memory"}) == nil {
			t.Error("room where nothing is left")
		}
		l.Release(got[0])
		if err := l.Room(Share{Namespace: "memory"}); err != nil {
			t.Error(err)
		}
	}
}

func TestUse(t *testing.T) {
	l := NewLedger(file(t, limited))
	l.Keep("a", share("dev", "a", 10, 20, 30))
	l.Keep("b", share("dev", "b", 10, 20, 30))
	l.Keep("c", share("zoo", "c", 5, 0, 0))
	var names []string
	for _, u := range l.Use() {
		names = append(names, u.Namespace)
		switch u.Namespace {
		case "dev":
			if u.Agents.Used != 2 || *u.Agents.Limit != 3 || u.MemoryMB.Used != 20 || u.Processes.Used != 40 || u.FDs.Used != 1200 || u.FDs.Endless {
				t.Errorf("%+v", u)
			}
		case "zoo":
			if u.Agents.Used != 1 || *u.Agents.Limit != 1 || u.MemoryMB.Used != 5 || u.MemoryMB.Limit != nil || !u.Processes.Endless {
				t.Errorf("%+v", u)
			}
		}
	}
	if strings.Join(names, " ") != "closed dev memory zoo" {
		t.Errorf("namespaces %q", names)
	}
}
