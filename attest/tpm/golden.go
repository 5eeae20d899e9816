package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/raypher/raypher/attest"
)

// ErrGolden: golden values that cannot be read.
var ErrGolden = errors.New("golden PCR values")

// Golden are the allowed values of PCRs of the SHA-256 bank: PCR number to values, any of which is right.
type Golden map[uint64][][32]byte

const maxGoldenLine = 4096

// ParseGolden reads lines `PCR = HEX [HEX ...]`; # starts a comment, empty lines are skipped. A PCR may stand on several
// lines.
func ParseGolden(text []byte) (Golden, error) {
	g := make(Golden)
	for number, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := g.addLine(line); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrGolden, number+1, err)
		}
	}
	if len(g) == 0 {
		return nil, fmt.Errorf("%w: none in it: write lines like `7 = HEX`", ErrGolden)
	}
	return g, nil
}

func (g Golden) addLine(line string) error {
	index, values, found := strings.Cut(line, "=")
	pcr, err := strconv.ParseUint(strings.TrimSpace(index), 10, 8)
	if len(line) > maxGoldenLine || !found || err != nil || pcr >= PCRCount {
		return fmt.Errorf("expected `PCR = HEX`, with a PCR of 0 to %d", PCRCount-1)
	}
	words := strings.Fields(values)
	if len(words) == 0 {
		return fmt.Errorf("PCR %d has no value", pcr)
	}
	for _, word := range words {
		value, err := hex.DecodeString(word)
		if err != nil || len(value) != PCRSize {
			return fmt.Errorf("PCR %d: expected %d hexadecimal digits", pcr, 2*PCRSize)
		}
		g[pcr] = append(g[pcr], [32]byte(value))
	}
	return nil
}

func (g Golden) check(pcrs []PCR) error {
	quoted := make(map[uint64][32]byte, len(pcrs))
	for _, p := range pcrs {
		quoted[p.Index] = p.Value
	}
	for index, allowed := range g {
		value, ok := quoted[index]
		if !ok {
			return attest.Refuse(CheckGolden, "PCR %d has golden values and is not quoted", index)
		}
		right := false
		for _, a := range allowed {
			right = right || a == value
		}
		if !right {
			return attest.Refuse(CheckGolden, "PCR %d is %x, which is none of its %d golden values", index, value, len(allowed))
		}
	}
	return nil
}
