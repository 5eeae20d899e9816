package prices

import "testing"

// What a cache that is kept for long costs is known where it has a rate in each band, or where no writes have one.
func TestLongCache(t *testing.T) {
	rate := uint64(1)
	short, long := Band{CacheWrite: &rate}, Band{CacheWrite: &rate, CacheWrite1h: &rate}
	for _, tt := range []struct {
		name  string
		rates Rates
		known bool
	}{
		{"no writes", Rates{}, true},
		{"writes", Rates{Band: short}, false},
		{"long writes", Rates{Band: long}, true},
		{"of short inputs only", Rates{Band: long, Tiers: []Tier{{Band: short}}}, false},
		{"of every input", Rates{Band: long, Tiers: []Tier{{Band: long}}}, true},
	} {
		if got := tt.rates.LongCache(); got != tt.known {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	filled := (&Rates{Band: Band{Input: 10}, Tiers: []Tier{{Band: Band{Input: 21}}}}).WithCacheWrite()
	if *filled.CacheWrite != 13 || *filled.CacheWrite1h != 20 || *filled.Tiers[0].CacheWrite != 27 || *filled.Tiers[0].CacheWrite1h != 42 {
		t.Errorf("filled: %+v", filled)
	}
}
