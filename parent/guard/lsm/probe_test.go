package lsm

import (
	"errors"
	"strings"
	"testing"
)

// TestProbeSaysWhy: a kernel without BPF LSM is told by trying, and in words that say what to do. Where it takes the program
// there is nothing to say.
func TestProbeSaysWhy(t *testing.T) {
	err := Probe()
	if err == nil {
		t.Skip("this kernel takes BPF LSM programs: the guests' tests hold what they do")
	}
	if !errors.Is(err, ErrNotPermitted) {
		t.Fatalf("%v: not ErrNotPermitted", err)
	}
	for _, word := range []string{"lsm=", "CONFIG_BPF_LSM", "root"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v: nothing of %q", err, word)
		}
	}
	if _, err := Load(Options{}); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("Load: %v", err)
	}
}
