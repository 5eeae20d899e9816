package boot

import "testing"

// An enclave beside its parent leaves it half of the processors, one in a machine of its own takes all.
func TestProcessors(t *testing.T) {
	for _, c := range []struct {
		listen          string
		available, want int
	}{
		{DefaultListen, 1, 1}, {DefaultListen, 2, 1}, {DefaultListen, 3, 2}, {DefaultListen, 8, 4},
		{"vsock", 1, 1}, {"vsock:5000", 2, 2}, {"vsock:5000", 8, 8},
	} {
		if got := processors(c.listen, c.available); got != c.want {
			t.Errorf("%s on %d processors: %d, want %d", c.listen, c.available, got, c.want)
		}
	}
}
