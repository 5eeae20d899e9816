package launch

import (
	"os"
	"testing"
)

// TestNamesLikeRemovedFiles: the kernel shows a removed file with " (deleted)" behind its name. What is called so and is there is
// decided by its name like everything else.
func TestNamesLikeRemovedFiles(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		bypassFiles(a)
		const name = "no/file (deleted)"
		a.write(name, "text")
		a.write("w/own (deleted)", "text")
		a.probeTable([]conformance{
			{"its mode", action{"chmod", "FOLDER/" + name, "0600"}, "EACCES", "chmod " + name},
			{"its length", action{"truncate", "FOLDER/" + name}, "EACCES", "truncate " + name},
			{"its times", action{"utimes", "FOLDER/" + name}, "EACCES", "utimes " + name},
			{"its attributes", action{"setxattr", "FOLDER/" + name}, "EACCES", "setxattr " + name},
			{"its content", action{"open", "FOLDER/" + name, "r"}, "EACCES", "open-read " + name},
			{"one of its own", action{"chmod", "FOLDER/w/own (deleted)", "0600"}, "ok", ""},
		})
		if info, err := os.Stat(a.folder + "/" + name); err != nil || info.Size() != 4 {
			t.Errorf("the file: %v, %v", info, err)
		}
	})
}
