package draft

import "testing"

// TestGeneralise is the specification of what in a name counts as made up.
func TestGeneralise(t *testing.T) {
	for _, tt := range []struct {
		name      string
		temporary bool
		want      string
	}{
		{"Makefile", false, "Makefile"},
		{"README.md", false, "README.md"},
		{"main_test.go", false, "main_test.go"},
		{"sha256.go", false, "sha256.go"},
		{"base64", false, "base64"},
		{"x86_64-linux-gnu", false, "x86_64-linux-gnu"},
		{"libssl.so.3", false, "libssl.so.3"},
		{"python3.11", false, "python3.11"},
		{"port8080", false, "port8080"},
		{"2024", false, "2024"},
		{"deadbeef", false, "deadbeef"},
		{"a,b{c}[d]*?", false, `a\,b\{c\}\[d\]\*\?`},
		{"line\nbreak", false, "line?break"},

		{"4b825dc642cb6eb9a060e54bf8d69288fbee4904", false, "*"},
		{"pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904.idx", false, "pack-*.idx"},
		{"2f1acc6c-3d2a-4f3e-9a55-0a1b2c3d4e5f.json", false, "*.json"},
		{"log-1732324215.txt", false, "log-*.txt"},
		{"node-v22.11.0-linux", false, "node-v*-linux"},
		{"v1.2", false, "v1.2"},
		{"sedAbC12x", false, "*"},
		{"x.cpython-311.pyc.140234567890", false, "x.cpython-311.pyc.*"},
		{"tmp_obj_aB3dE9", false, "tmp_obj_*"},
		{"file.Xy3kP9", false, "file.*"},

		{"tmpq8w_3kd1", true, "tmp*"},
		{"tmp.Qm3kPzAbCd", true, "tmp.*"},
		{"tmp.QmXkPzAbCd", true, "tmp.*"},
		{"build-812.log", true, "build-*.log"},
		{"ccAbXy12.o", true, "*.o"},
		{"results.txt", true, "results.txt"},
		{"Report1.txt", true, "Report1.txt"},
		{"template.html", false, "template.html"},
	} {
		if got := generalise(tt.name, tt.temporary); got != tt.want {
			t.Errorf("%q (temporary %v) became %q, want %q", tt.name, tt.temporary, got, tt.want)
		}
	}
}
