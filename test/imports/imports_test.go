// Package imports holds the promises of the layout: which package may import which (docs/architecture.md).
package imports

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/raypher/raypher/"

// promises: a package at or below one of from must not depend on a package at or below one of never, tests apart.
var promises = []struct {
	name        string
	from, never []string
}{
	{
		"the trusted side knows nothing of the host side",
		[]string{"enclave", "cmd/raypher-enclave"},
		[]string{"parent", "bpf"},
	},
	{
		"the host side reaches the trusted side through its services only",
		[]string{"parent", "bpf", "client", "cmd/raypherd"},
		[]string{"enclave"},
	},
	{
		"the nouns that outsiders import know neither side",
		[]string{"policy", "trace", "draft", "visa", "evidence", "journal", "manifest", "attest", "release", "recipient", "cost"},
		[]string{"parent", "enclave", "bpf", "cmd", "client"},
	},
	{
		"what an agent imports brings none of the guard along",
		[]string{"client"},
		[]string{"parent", "bpf", "cmd"},
	},
	{
		"the controller knows the host side not at all",
		[]string{"controller", "cmd/raypher-controller"},
		[]string{"parent", "bpf", "client", "cmd/raypher", "cmd/raypherd", "cmd/raypher-enclave"},
	},
	{
		"of the trusted side the controller knows formats",
		[]string{"controller", "cmd/raypher-controller"},
		[]string{"enclave/agenttls", "enclave/boot", "enclave/fleet", "enclave/journal", "enclave/keys", "enclave/kms", "enclave/mint", "enclave/sandbox", "enclave/seal", "enclave/signer"},
	},
	{
		"neither side knows what is inside a controller",
		[]string{"enclave", "parent", "cmd/raypherd", "cmd/raypher-enclave"},
		[]string{"controller"},
	},
	{
		"nothing depends on demonstrations, tests and the laboratory",
		[]string{"policy", "trace", "draft", "visa", "evidence", "journal", "manifest", "attest", "parent", "enclave", "bpf", "client", "cmd", "proto", "controller"},
		[]string{"examples", "test", "lab"},
	},
}

func TestLayoutPromises(t *testing.T) {
	dependencies := dependencies(t)
	for _, promise := range promises {
		t.Run(promise.name, func(t *testing.T) {
			for from, deps := range dependencies {
				if !below(from, promise.from) {
					continue
				}
				for _, dep := range deps {
					if below(dep, promise.never) {
						t.Errorf("%s depends on %s", from, dep)
					}
				}
			}
		})
	}
}

// TestMainPackagesOnlyWire: below main there is no os.Exit and no log.Fatal.
func TestMainPackagesOnlyWire(t *testing.T) {
	root := repository(t)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules") && path != root {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil || file.Name.Name == "main" {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			left, ok := selector.X.(*ast.Ident)
			if !ok {
				return true
			}
			call := left.Name + "." + selector.Sel.Name
			if call == "os.Exit" || call == "log.Fatal" || call == "log.Fatalf" {
				t.Errorf("%s: %s outside package main", path, call)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// dependencies maps each package of the module to the packages of the module that it needs, both without the module's path.
func dependencies(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, "./...")
	cmd.Dir = repository(t)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.Bytes())
	}
	all := make(map[string][]string)
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		var own []string
		for _, word := range words[1:] {
			if name, ok := strings.CutPrefix(word, module); ok {
				own = append(own, name)
			}
		}
		all[strings.TrimPrefix(words[0], module)] = own
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages", len(all))
	}
	return all
}

func below(name string, folders []string) bool {
	for _, folder := range folders {
		if name == folder || strings.HasPrefix(name, folder+"/") {
			return true
		}
	}
	return false
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}
