package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// module is a Terraform module, parsed as Terraform parses it. What a provider makes of its resources, only the provider knows.
type module struct {
	folder string
	blocks []*hclsyntax.Block
}

func parseModule(t *testing.T, folder string) *module {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", folder, err)
	}
	m := &module{folder: folder}
	parser := hclparse.NewParser()
	for _, name := range files {
		file, diagnostics := parser.ParseHCLFile(name)
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics)
		}
		m.blocks = append(m.blocks, file.Body.(*hclsyntax.Body).Blocks...)
	}
	return m
}

// declared are the addresses that expressions may begin with.
func (m *module) declared() map[string]bool {
	all := make(map[string]bool)
	for _, b := range m.blocks {
		switch b.Type {
		case "variable":
			all["var."+b.Labels[0]] = true
		case "data":
			all["data."+b.Labels[0]+"."+b.Labels[1]] = true
		case "resource":
			all[b.Labels[0]+"."+b.Labels[1]] = true
		}
	}
	return all
}

// all returns the blocks of a type with these labels, at any depth; no labels: any.
func (m *module) all(kind string, labels ...string) (found []*hclsyntax.Block) {
	var look func([]*hclsyntax.Block)
	look = func(blocks []*hclsyntax.Block) {
		for _, b := range blocks {
			if b.Type == kind && (len(labels) == 0 || slices.Equal(b.Labels, labels)) {
				found = append(found, b)
			}
			look(b.Body.Blocks)
		}
	}
	look(m.blocks)
	return found
}

// value is what an attribute without variables says.
func value(t *testing.T, b *hclsyntax.Block, name string) cty.Value {
	t.Helper()
	a := b.Body.Attributes[name]
	if a == nil {
		t.Fatalf("%s: %s has no %s", b.Range(), b.Type, name)
	}
	v, diagnostics := a.Expr.Value(nil)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	return v
}

// Every name that a module uses is declared, and every variable is used.
func TestTerraformNames(t *testing.T) {
	for _, folder := range []string{"terraform/nitro", "terraform/baremetal"} {
		m := parseModule(t, folder)
		declared, used := m.declared(), make(map[string]bool)
		for _, b := range m.blocks {
			if b.Type == "variable" { // types, and conditions about itself
				continue
			}
			local := []string{"each", "path", "statement", "condition"} // of for_each, and of dynamic blocks
			for _, traversal := range variables(b) {
				var parts []string
				for _, step := range traversal {
					switch step := step.(type) {
					case hcl.TraverseRoot:
						parts = append(parts, step.Name)
					case hcl.TraverseAttr:
						parts = append(parts, step.Name)
					}
				}
				n := 2
				if parts[0] == "data" {
					n = 3
				}
				if slices.Contains(local, parts[0]) {
					continue
				}
				address := strings.Join(parts[:min(n, len(parts))], ".")
				used[address] = true
				if !declared[address] {
					t.Errorf("%s: %s is not declared", traversal.SourceRange(), address)
				}
			}
		}
		for address := range declared {
			if strings.HasPrefix(address, "var.") && !used[address] {
				t.Errorf("%s: %s is not used", folder, address)
			}
		}
	}
}

// variables are the references of a block's expressions; names that a for expression binds are left out.
func variables(b *hclsyntax.Block) (all []hcl.Traversal) {
	for _, a := range b.Body.Attributes {
		all = append(all, a.Expr.Variables()...)
	}
	for _, inner := range b.Body.Blocks {
		all = append(all, variables(inner)...)
	}
	return all
}

// What the documentation promises of a Nitro host.
func TestTerraformNitro(t *testing.T) {
	m := parseModule(t, "terraform/nitro")
	instance := m.all("resource", "aws_instance", "host")
	if len(instance) != 1 {
		t.Fatalf("%d instances", len(instance))
	}
	for _, c := range []struct {
		block, attribute string
		want             cty.Value
	}{
		{"enclave_options", "enabled", cty.True},
		{"metadata_options", "http_tokens", cty.StringVal("required")},
		{"metadata_options", "http_put_response_hop_limit", cty.NumberIntVal(1)},
		{"root_block_device", "encrypted", cty.True},
	} {
		blocks := m.all(c.block)
		if len(blocks) != 1 || !value(t, blocks[0], c.attribute).RawEquals(c.want) {
			t.Errorf("%s: %s is not %#v", c.block, c.attribute, c.want)
		}
	}
	if !value(t, instance[0], "associate_public_ip_address").RawEquals(cty.False) {
		t.Error("the instance has a public address")
	}
	for _, b := range m.blocks {
		if b.Type == "resource" && (b.Labels[0] == "aws_vpc_security_group_ingress_rule" || b.Labels[0] == "aws_security_group_rule" || b.Labels[0] == "aws_default_security_group") {
			t.Errorf("%s: a way in", b.Range())
		}
	}
	if ways := m.all("ingress"); len(ways) != 0 {
		t.Errorf("%s: a way in", ways[0].Range())
	}
	decrypts(t, m)
}

// decrypts holds that each statement which lets somebody decrypt is bound to all registers of one image.
func decrypts(t *testing.T, m *module) {
	t.Helper()
	allowed := 0
	for _, b := range append(m.all("content"), m.all("statement")...) {
		if b.Body.Attributes["actions"] == nil {
			continue
		}
		actions := value(t, b, "actions")
		decrypt := false
		for _, action := range actions.AsValueSlice() {
			decrypt = decrypt || strings.EqualFold(action.AsString(), "kms:Decrypt") || strings.Contains(action.AsString(), "*")
		}
		if !decrypt || b.Body.Attributes["effect"] != nil && value(t, b, "effect").AsString() == "Deny" {
			continue
		}
		allowed++
		if len(b.Body.Blocks) == 0 || b.Body.Blocks[len(b.Body.Blocks)-1].Labels[0] != "condition" {
			t.Errorf("%s: decryption without a condition", b.Range())
			continue
		}
		condition := b.Body.Blocks[len(b.Body.Blocks)-1].Body.Blocks[0].Body.Attributes
		variable, diagnostics := condition["variable"].Expr.Value(&hcl.EvalContext{Variables: map[string]cty.Value{"condition": cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal("PCR16")})}})
		if diagnostics.HasErrors() || variable.AsString() != "kms:RecipientAttestation:PCR16" {
			t.Errorf("%s: the condition is about %#v, %v", b.Range(), variable, diagnostics)
		}
	}
	if allowed != 2 {
		t.Errorf("%d statements let somebody decrypt, expected the key's and the role's", allowed)
	}
}

// The scripts of both modules are shell after their values were put in, and nothing is left to put in.
func TestTerraformScripts(t *testing.T) {
	for name, values := range map[string]map[string]cty.Value{
		"terraform/nitro/user_data.sh.tftpl": {
			"bucket": cty.StringVal("b"), "key": cty.StringVal("k"), "sha256": cty.StringVal("00"), "region": cty.StringVal("eu-central-1"),
			"cid": cty.NumberIntVal(16), "cpus": cty.NumberIntVal(2), "memory": cty.NumberIntVal(512),
		},
		"terraform/baremetal/install.sh.tftpl": {"sha256": cty.StringVal("00"), "tpm": cty.StringVal("/dev/tpmrm0")},
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		template, diagnostics := hclsyntax.ParseTemplate(text, name, hcl.InitialPos)
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics)
		}
		script, diagnostics := template.Value(&hcl.EvalContext{Variables: values})
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics)
		}
		shell := "sh"
		if strings.HasPrefix(script.AsString(), "#!/bin/bash") {
			shell = "bash"
		}
		check := exec.Command(shell, "-n")
		check.Stdin = strings.NewReader(script.AsString())
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// Terraform itself, where it is installed: the form of all files, and the module that needs no provider.
func TestTerraform(t *testing.T) {
	if _, err := exec.LookPath("terraform"); err != nil {
		t.Skip("no terraform: the modules were parsed, not validated")
	}
	run := func(dir string, arguments ...string) {
		t.Helper()
		cmd := exec.Command("terraform", arguments...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "CHECKPOINT_DISABLE=1"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("terraform %s: %v: %s", strings.Join(arguments, " "), err, out)
		}
	}
	run("terraform", "fmt", "-check", "-recursive", "-diff", ".")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("terraform/baremetal")); err != nil {
		t.Fatal(err)
	}
	run(dir, "init", "-no-color", "-input=false", "-backend=false")
	run(dir, "validate", "-no-color")
}
