package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/raypher/raypher/examples/scripted"
	"github.com/raypher/raypher/examples/stage"
)

// agent is what agent.json says. In its texts {{.Home}} is the agent's $HOME, {{.Installed}} the folder below it where its npm
// packages are shown, {{.Model}} the URL of its model, without /v1, and {{.Key}} the key for it.
type agent struct {
	name       string
	folder     string
	model, key string // empty: the scripted model, which wants none

	Title       string            `json:"title"`
	Command     []string          `json:"command"`     // the task follows; the program may hold a * that stands for one file
	Environment []string          `json:"environment"` // NAME=value; HOME, PATH, TERM and what names an OpenAI-compatible model are set before
	Folders     []string          `json:"folders"`     // to make in the home
	Files       map[string]string `json:"files"`       // to write into the home: path there, template beside agent.json
	Tool        struct {
		Name    string         `json:"name"`    // of the tool that runs commands
		Command string         `json:"command"` // the name of its argument for the command
		Fixed   map[string]any `json:"fixed"`   // its other arguments
	} `json:"tool"`
}

// load reads the agent whose folder it is given.
func load(folder string) (*agent, error) {
	text, err := os.ReadFile(filepath.Join(folder, "agent.json"))
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	a := &agent{name: filepath.Base(folder), folder: folder}
	if err := decoder.Decode(a); err != nil {
		return nil, fmt.Errorf("%s: agent.json: %w", folder, err)
	}
	if len(a.Command) == 0 || a.Tool.Name == "" || a.Tool.Command == "" {
		return nil, fmt.Errorf("%s: agent.json: command, tool.name or tool.command is missing", folder)
	}
	return a, nil
}

func (a *agent) values(home *stage.Home) map[string]string {
	return map[string]string{
		"Home": home.Dir, "Installed": home.Path(".local", "lib", a.name),
		"Model": cmp.Or(a.model, "http://"+stage.ModelAddress), "Key": cmp.Or(a.key, "dummy"),
	}
}

// fill replaces what stands for something in words. A word of which furnish knows better is left as it is.
func (a *agent) fill(home *stage.Home, words []string) []string {
	filled := make([]string, len(words))
	for i, word := range words {
		text, err := scripted.Fill("agent.json", word, a.values(home))
		if err != nil {
			text = word // furnish has said so
		}
		if found, err := filepath.Glob(text); i == 0 && err == nil && len(found) == 1 {
			text = found[0]
		}
		filled[i] = text
	}
	return filled
}

// furnish shows the installation in the home and writes the agent's configuration, all of it the person's.
func (a *agent) furnish(home *stage.Home, installed string) (undo func() error, err error) {
	for _, word := range append(a.Command, a.Environment...) {
		if _, err := scripted.Fill("agent.json", word, a.values(home)); err != nil {
			return nil, err
		}
	}
	for _, folder := range a.Folders {
		if err := os.MkdirAll(home.Path(folder), 0o700); err != nil {
			return nil, err
		}
	}
	for path, template := range a.Files {
		text, err := os.ReadFile(filepath.Join(a.folder, template))
		if err != nil {
			return nil, err
		}
		filled, err := scripted.Fill(template, string(text), a.values(home))
		if err != nil {
			return nil, err
		}
		err = errors.Join(os.MkdirAll(filepath.Dir(home.Path(path)), 0o700), os.WriteFile(home.Path(path), []byte(filled), 0o600))
		if err != nil {
			return nil, err
		}
	}
	at := a.values(home)["Installed"]
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, err
	}
	if err := home.Give(); err != nil {
		return nil, err
	}
	if undo, err = stage.Show(installed, at); err != nil {
		return nil, err
	}
	if program := a.fill(home, a.Command)[0]; strings.Contains(program, "*") {
		return nil, errors.Join(fmt.Errorf("%s: not one file: install it again with scripts/agents.sh", program), undo())
	}
	return undo, nil
}
