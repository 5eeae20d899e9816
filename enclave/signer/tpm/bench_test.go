package tpm

import (
	"strings"
	"testing"
)

// A benchmark measures what it can: here without an EK certificate, which evidence needs. An NV index of somebody else, or of a
// benchmark that was cut off, is left alone. Both are said with what to do.
func TestBenchmarkOfWhatWorks(t *testing.T) {
	tpm := plain(t)
	tpm.Tool(t, t.TempDir(), "tpm2_nvdefine", "0x01800b01", "-Q", "-C", "o", "-s", "8", "-a", "nt=counter|ownerwrite|ownerread|authwrite|authread|no_da")
	timings, err := open(t, device(t, tpm), t.TempDir(), Configuration{}).Benchmark(t.Context(), 1)
	var measured []string
	for _, m := range timings {
		measured = append(measured, m.Operation)
	}
	if got := strings.Join(measured, ", "); got != "sign, make attestation key, quote" {
		t.Errorf("measured %s", got)
	}
	for _, want := range []string{"ek_certificate = FILE", "tpm2_nvundefine -C o 0x1800b01"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
