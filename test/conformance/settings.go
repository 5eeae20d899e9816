package conformance

// Settings is the whole table.
func Settings() []Setting {
	return []Setting{files}
}
