package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestTLSReader runs libFuzzer over the reader of TLS hellos that the network guard runs in the kernel: as it stands, in a
// process that watches each byte beyond the packet. `make fuzz` does it for longer.
func TestTLSReader(t *testing.T) {
	clang, err := exec.LookPath("clang-14")
	if err != nil {
		if clang, err = exec.LookPath("clang"); err != nil {
			t.Skip("no clang: scripts/deps.sh installs it")
		}
	}
	program := filepath.Join(t.TempDir(), "tls")
	out, err := exec.Command(clang, "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=fuzzer,address,undefined", "-o", program, "fuzz/tls.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	limit := "-runs=100000"
	if time := os.Getenv("FUZZSECONDS"); time != "" {
		limit = "-max_total_time=" + time
	}
	fuzz := exec.Command(program, limit, "-seed=1", "-print_final_stats=1")
	fuzz.Dir = t.TempDir()
	out, err = fuzz.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ran := regexp.MustCompile(`number_of_executed_units: *(\d+)`).FindSubmatch(out)
	if ran == nil {
		t.Fatalf("it does not say how much ran:\n%s", out)
	}
	t.Logf("%s inputs", ran[1])
}
