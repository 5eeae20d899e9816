package launch

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// BenchmarkOpen is the cost of open and close for an agent: without a guard, where its files are not governed, where the floor
// allows the access and the warden only decides, and where the warden opens the file and injects it. Compare within one run.
func BenchmarkOpen(b *testing.B) {
	for _, bb := range []struct{ name, policy, path string }{
		{"plain", "", "r/file"},
		{"ungoverned", "mode: enforce\n", "r/file"},
		{"decided", bypassPolicy, "r/file"},
		{"injected", bypassPolicy, "g/a.txt"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			a := newAgent(b, os.Getuid(), bb.policy)
			bypassFiles(a)
			cmd := exec.Command(a.self, roleProbe+"-lines")
			if bb.policy != "" {
				cmd = a.command(a.self, roleProbe+"-lines")
			}
			in, err := cmd.StdinPipe()
			a.must(err)
			out, err := cmd.StdoutPipe()
			a.must(err)
			a.must(cmd.Start())
			defer cmd.Wait()
			defer in.Close()
			lines := bufio.NewScanner(out)
			ask := func(n int) {
				fmt.Fprintf(in, "times %d %s/%s\n", n, a.folder, bb.path)
				if !lines.Scan() || strings.TrimSpace(lines.Text()) != "ok" {
					b.Fatalf("the agent said %q", lines.Text())
				}
			}
			ask(100)
			b.ResetTimer()
			ask(b.N)
		})
	}
}
