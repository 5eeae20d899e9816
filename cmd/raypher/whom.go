package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// An agent goes by its id, by the beginning of it, or by its name. A name may be that of several agents; an id is of one.

// whom is an agent as a user may call it.
type whom struct{ id, name string }

func (w whom) String() string { return w.id + " (" + evidence.Printable(w.name) + ")" }

// nameIn is the agent's name in a SPIFFE ID (docs/protocol.md): its last segment.
func nameIn(subject string) string { return subject[strings.LastIndexByte(subject, '/')+1:] }

// called returns the agents that word means: the one of that id, else all of that name or whose id begins so.
func called(word string, agents []whom) []whom {
	if i := slices.IndexFunc(agents, func(w whom) bool { return w.id == word }); i >= 0 {
		return agents[i : i+1]
	}
	var found []whom
	for _, w := range agents {
		if w.name == word || word != "" && strings.HasPrefix(w.id, word) {
			found = append(found, w)
		}
	}
	return found
}

// theOne returns the id of the only agent that word means.
func theOne(word string, running []whom) (string, error) {
	switch found := called(word, running); {
	case len(found) == 1:
		return found[0].id, nil
	case len(found) > 1:
		return "", fmt.Errorf("agent %q: %d are called so: name one by its id: %s", word, len(found), listed(found))
	case len(running) == 0:
		return "", fmt.Errorf("agent %q: no agent runs", word)
	}
	return "", fmt.Errorf("agent %q: none that runs has this name or id: these run: %s", word, listed(running))
}

// listed bounds a list for a message.
func listed(agents []whom) string {
	const most = 20
	var names []string
	for i, a := range agents {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(agents)-i))
			break
		}
		names = append(names, a.String())
	}
	return strings.Join(names, ", ")
}

// runningAgents asks raypherd.
func runningAgents(ctx context.Context, operator parentv1.OperatorClient) ([]whom, error) {
	reply, err := operator.ListAgents(ctx, &parentv1.ListAgentsRequest{})
	if err != nil {
		return nil, err
	}
	var agents []whom
	for _, a := range reply.Agents {
		agents = append(agents, whom{a.AgentId, a.Name})
	}
	return agents, nil
}

// ofAgent keeps the verdicts of the agents that word means; empty: of all. That there is none is an error.
func ofAgent(word string, items []listItem) ([]listItem, error) {
	if word == "" {
		return items, nil
	}
	agents := agentsOf(items)
	found := called(word, agents)
	if len(found) == 0 && len(agents) == 0 {
		return nil, fmt.Errorf("agent %q: there is no verdict of any agent", word)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("agent %q: there is no verdict of an agent of this name or id: there are verdicts of %s", word, listed(agents))
	}
	return slices.DeleteFunc(items, func(item listItem) bool {
		return !slices.ContainsFunc(found, func(w whom) bool { return w.id == item.AgentID })
	}), nil
}

// agentsOf are the agents of some verdicts, each once.
func agentsOf(items []listItem) []whom {
	var agents []whom
	seen := map[string]bool{}
	for i := range items {
		if v := &items[i]; !seen[v.AgentID] {
			seen[v.AgentID] = true
			agents = append(agents, whom{v.AgentID, nameIn(v.Subject)})
		}
	}
	return agents
}
