package conformance

import "slices"

// Settings is the whole table.
func Settings() []Setting {
	return slices.Concat([]Setting{files, programs, hashes, sockets, calls, globs(), audit(), permissive(), byName, limits}, kills())
}
