package tpm

import (
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/journal"
)

// matchGolden finds the set that allows the quoted PCRs; nil without a list.
func (o *Options) matchGolden(pcrs []PCR) (*golden.Set, error) {
	if o.Golden == nil {
		return nil, nil
	}
	return o.Golden.Match(journal.TierTPM, o.now(), GoldenValues(pcrs))
}

// GoldenValues are PCRs as package golden compares them.
func GoldenValues(pcrs []PCR) golden.Values {
	values := make(golden.Values, len(pcrs))
	for _, p := range pcrs {
		values[p.Index] = p.Value[:]
	}
	return values
}
