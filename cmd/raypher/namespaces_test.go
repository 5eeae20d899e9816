package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// What namespaces have given away is in the status, for people and for programs.
func TestStatusShowsNamespaces(t *testing.T) {
	limit := func(n uint64) *uint64 { return &n }
	s := &parentv1.StatusReply{Namespaces: []*parentv1.NamespaceUse{
		{Namespace: "dev", Agents: &parentv1.NamespaceAmount{Used: 2}, MemoryMb: &parentv1.NamespaceAmount{Used: 512, Limit: limit(1024)},
			Processes: &parentv1.NamespaceAmount{Used: 5, Limit: limit(40), Endless: true}, Fds: &parentv1.NamespaceAmount{Endless: true}},
		{Namespace: "\x1b[2J"},
	}}
	var table bytes.Buffer
	if err := printStatus(&table, s, nil); err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(table.String(), "NAMESPACE")
	for _, want := range []string{"AGENTS", "MEMORY MB", "PROCESSES", "FDS", "dev", "2", "512 of 1024", "all of 40", "no limit"} {
		if !strings.Contains(rows, want) {
			t.Errorf("%s lacks %q", table.String(), want)
		}
	}
	if strings.Contains(rows, "\x1b") {
		t.Errorf("%q reaches the terminal as it is", rows)
	}
	text, err := json.Marshal(statusLine(s))
	if err != nil {
		t.Fatal(err)
	}
	if want := `"namespaces":[{"namespace":"dev","agents":{"used":2,"limit":null,"endless":false},"memory_mb":{"used":512,"limit":1024,"endless":false},"processes":{"used":5,"limit":40,"endless":true}`; !bytes.Contains(text, []byte(want)) {
		t.Errorf("%s lacks %s", text, want)
	}
	if text, _ := json.Marshal(statusLine(&parentv1.StatusReply{})); !bytes.Contains(text, []byte(`"namespaces":[]`)) {
		t.Errorf("none: %s", text)
	}
}
