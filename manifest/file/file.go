// Package file says where the manifest of a skill lies. It is apart from package manifest for those who only pass one on, such as
// `raypher run`: they have no use for what reading one takes.
package file

import (
	"os"
	"path/filepath"
)

// Name is what the manifest is called in the folder of its skill.
const Name = "clawmanifest.json"

// In returns the manifest that path means: the one in it, where it is a folder, else path itself.
func In(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, Name)
	}
	return path
}
