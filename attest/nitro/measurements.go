package nitro

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxMeasurements bounds what ParseMeasurements reads, in bytes.
const maxMeasurements = 16 << 10

// ParseMeasurements reads the registers that an image has, as `raypher eif measure --json` prints them: one JSON object from PCR0, PCR1, PCR2,
// and any others, to 96 hexadecimal digits. Those three must be there, as less would be some image of the same kernel or program.
func ParseMeasurements(text []byte) (map[int]PCR, error) {
	if len(text) > maxMeasurements {
		return nil, fmt.Errorf("measurements: more than %d bytes", maxMeasurements)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("measurements: not the JSON object that `raypher eif measure --json` prints")
	}
	pcrs := make(map[int]PCR)
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("measurements: %w", err)
		}
		digits, _ := strings.CutPrefix(name.(string), "PCR") // the names of an object are strings
		index, err := strconv.ParseUint(digits, 10, 8)
		if err != nil || index >= maxPCRs || "PCR"+strconv.FormatUint(index, 10) != name {
			return nil, fmt.Errorf("measurements: %.40q: use PCR0 to PCR%d", name, maxPCRs-1)
		}
		var value string
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("measurements: %s: %w", name, err)
		}
		raw, err := hex.DecodeString(value)
		if err != nil || len(raw) != PCRSize {
			return nil, fmt.Errorf("measurements: %s: %.120q is not %d hexadecimal digits", name, value, 2*PCRSize)
		}
		if _, twice := pcrs[int(index)]; twice {
			return nil, fmt.Errorf("measurements: %s stands twice", name)
		}
		pcrs[int(index)] = PCR(raw)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("measurements: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("measurements: something follows the object")
	}
	for index := range 3 {
		if value, ok := pcrs[index]; !ok || value == (PCR{}) {
			return nil, fmt.Errorf("measurements: PCR%d is missing, or zero as in debug mode", index)
		}
	}
	return pcrs, nil
}
