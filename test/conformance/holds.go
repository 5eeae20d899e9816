package conformance

// Class is what a class of cases comes to, for parent/doctor/holds.json: `raypher doctor` shows it, and takes it from nowhere else.
type Class struct {
	Class string `json:"class"`
	Cases int    `json:"cases"`
	Holds string `json:"holds"`           // both; or lsm or broker, where the other holds none of them
	Apart []One  `json:"apart,omitempty"` // cases that one backend alone holds
}

// One is a case that one backend alone holds.
type One struct {
	Case   string `json:"case"`
	Holds  string `json:"holds"`
	Reason string `json:"reason"` // why the other does not
}

// Classes are the classes in the order of the table.
func Classes() (all []Class) {
	at := map[string]int{}
	for _, s := range Settings() {
		for _, section := range s.Sections {
			i, known := at[section.Class]
			if !known {
				i = len(all)
				at[section.Class] = i
				all = append(all, Class{Class: section.Class, Holds: "both"})
			}
			all[i].Cases += len(section.Cases)
			for _, c := range section.Cases {
				if c.holds != "" {
					all[i].Apart = append(all[i].Apart, One{c.Name, c.holds, c.reason})
				}
			}
		}
	}
	for i := range all {
		if c := &all[i]; len(c.Apart) == c.Cases {
			c.Holds = c.Apart[0].Holds
		}
	}
	return all
}
