package nitro_test

import (
	"strings"
	"testing"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
)

// What `raypher eif measure --json` prints is read, and nothing that says less or something else.
func TestParseMeasurements(t *testing.T) {
	measured := eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}, PCR8: &eif.PCR{8}}
	text, err := measured.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := nitro.ParseMeasurements(append(text, '\n'))
	if err != nil || len(pcrs) != 4 || pcrs[0] != measured.PCR0 || pcrs[1] != measured.PCR1 || pcrs[2] != measured.PCR2 || pcrs[8] != *measured.PCR8 {
		t.Errorf("%v, %v", pcrs, err)
	}
	value := `"` + strings.Repeat("0a", nitro.PCRSize) + `"`
	three := `"PCR0":` + value + `,"PCR1":` + value + `,"PCR2":` + value
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "not the JSON object"},
		{"a list", "[]", "not the JSON object"},
		{"no registers", "{}", "PCR0 is missing"},
		{"two registers", `{"PCR0":` + value + `,"PCR1":` + value + `}`, "PCR2 is missing"},
		{"debug mode", `{"PCR0":"` + strings.Repeat("00", nitro.PCRSize) + `","PCR1":` + value + `,"PCR2":` + value + `}`, "zero as in debug mode"},
		{"a register twice", `{` + three + `,"PCR2":` + value + `}`, "PCR2 stands twice"},
		{"an unknown register", `{` + three + `,"PCR32":` + value + `}`, "use PCR0 to PCR31"},
		{"another spelling", `{` + three + `,"PCR03":` + value + `}`, "use PCR0 to PCR31"},
		{"another name", `{` + three + `,"HashAlgorithm":"Sha384"}`, "use PCR0 to PCR31"},
		{"a short value", `{"PCR0":"00"}`, "96 hexadecimal digits"},
		{"a number", `{"PCR0":1}`, "PCR0"},
		{"an end too early", `{` + three, "EOF"},
		{"something behind", `{` + three + `} {}`, "something follows"},
		{"too much", strings.Repeat(" ", 17<<10), "more than"},
	} {
		if pcrs, err := nitro.ParseMeasurements([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", c.name, pcrs, err, c.want)
		}
	}
}

func FuzzParseMeasurements(f *testing.F) {
	f.Add([]byte(`{"PCR0":"` + strings.Repeat("0a", nitro.PCRSize) + `"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		pcrs, err := nitro.ParseMeasurements(text)
		if (err == nil) != (pcrs != nil) || err == nil && (len(pcrs) < 3 || pcrs[0] == nitro.PCR{}) {
			t.Errorf("%v, %v", pcrs, err)
		}
	})
}
