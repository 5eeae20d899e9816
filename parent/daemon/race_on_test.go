//go:build race

package daemon

// raced says that the tests are built with -race; raypherd is then too.
const raced = true
