//go:build race

package ledger

// raced: the race detector makes each run several times as long. The simulation has one goroutine alone, so with it a few seeds will do; what
// has many are the tests beside it.
const raced = true
