// Command openclaw is `make demo-openclaw`: the real OpenClaw from npm, unchanged, with a scripted model on loopback whose tool
// calls turn from the person's task to theft. It is the demonstration of examples/demo with an agent that people use.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/raypher/raypher/examples/scripted"
	"github.com/raypher/raypher/examples/stage"
)

func main() {
	var installed string
	os.Exit(stage.Demonstration{
		Name: "openclaw",
		Flags: func(flags *flag.FlagSet) {
			flags.StringVar(&installed, "openclaw", "", "folder that scripts/openclaw.sh printed")
		},
		Scene: func(p stage.Places) *stage.Scene { return scene(p, installed) },
	}.Main())
}

func scene(p stage.Places, installed string) *stage.Scene {
	return &stage.Scene{
		Title: "OpenClaw, and a model that was told to steal",
		Furnish: func(home *stage.Home) (func() error, error) {
			if err := configure(home, filepath.Join(p.Folder, "openclaw.json")); err != nil {
				return nil, err
			}
			return mount(installed, home.Path(".local/lib/openclaw"))
		},
		Command: command,
		Env: func(home *stage.Home) []string {
			return []string{
				"PATH=" + home.Path(nodeFolder) + ":/usr/bin:/bin",
				"TMPDIR=" + home.Path("tmp"),
				"NODE_DISABLE_COMPILE_CACHE=1", // each run has a fresh home: a cache would only be written
			}
		},
		Limit: 4 * time.Minute,
	}
}

// nodeFolder and openclawEntry are where the installation lies below the home.
const (
	nodeFolder    = ".local/lib/openclaw/node/node_modules/node/bin"
	openclawEntry = ".local/lib/openclaw/claw/node_modules/openclaw/openclaw.mjs"
)

func command(home *stage.Home) []string {
	return []string{home.Path(nodeFolder, "node"), home.Path(openclawEntry), "agent", "exec", "--cwd", home.Work, "--json"}
}

// configure writes OpenClaw's configuration, which names the scripted model.
func configure(home *stage.Home, template string) error {
	text, err := os.ReadFile(template)
	if err != nil {
		return err
	}
	filled, err := scripted.Fill(template, string(text), map[string]string{"Model": "http://" + stage.ModelAddress + "/v1"})
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(home.Path(".openclaw"), 0o700),
		os.MkdirAll(home.Path(".cache"), 0o700),
		os.MkdirAll(home.Path("tmp"), 0o700),
		os.WriteFile(home.Path(".openclaw", "openclaw.json"), []byte(filled), 0o600))
}

// mount shows the installation below the home, read-only, so that the policy can name it as ~/.local/lib/openclaw and
// removing the home never reaches it.
func mount(installed, at string) (undo func() error, err error) {
	if installed == "" {
		return nil, errors.New("say where OpenClaw is: -openclaw \"$(scripts/openclaw.sh)\"")
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount(installed, at, "", syscall.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("show %s in the home: %w", installed, err)
	}
	undo = func() error {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		return nil
	}
	if err := syscall.Mount("", at, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s read-only: %w", at, err), undo())
	}
	return undo, nil
}
