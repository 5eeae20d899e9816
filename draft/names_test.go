package draft

import (
	"math/rand/v2"
	"testing"
)

// TestGeneralise is the specification of what in a name counts as made up.
func TestGeneralise(t *testing.T) {
	in, gone, both := about{temporary: true}, about{vanished: true}, about{temporary: true, vanished: true}
	for _, tt := range []struct {
		name string
		a    about
		want string
	}{
		{"Makefile", about{}, "Makefile"},
		{"README.md", about{}, "README.md"},
		{"main_test.go", about{}, "main_test.go"},
		{"sha256.go", about{}, "sha256.go"},
		{"base64", about{}, "base64"},
		{"x86_64-linux-gnu", about{}, "x86_64-linux-gnu"},
		{"libssl.so.3", about{}, "libssl.so.3"},
		{"python3.11", about{}, "python3.11"},
		{"port8080", about{}, "port8080"},
		{"2024", about{}, "2024"},
		{"deadbeef", about{}, "deadbeef"},
		{"a,b{c}[d]*?", about{}, `a\,b\{c\}\[d\]\*\?`},
		{"line\nbreak", about{}, "line?break"},
		{"template.html", about{}, "template.html"},
		{"tempfile.go", about{}, "tempfile.go"},

		{"4b825dc642cb6eb9a060e54bf8d69288fbee4904", about{}, "*"},
		{"pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904.idx", about{}, "pack-*.idx"},
		{"2f1acc6c-3d2a-4f3e-9a55-0a1b2c3d4e5f.json", about{}, "*.json"},
		{"log-1732324215.txt", about{}, "log-*.txt"},
		{"node-v22.11.0-linux", about{}, "node-v*-linux"},
		{"v1.2", about{}, "v1.2"},
		{"sedAbC12x", about{}, "*"},
		{"x.cpython-311.pyc.140234567890", about{}, "x.cpython-311.pyc.*"},
		{"file.Xy3kP9", about{}, "file.*"},
		{"tmp_obj_aB3dE9", about{}, "tmp_obj_*"},
		{"tmp_pack_aBcdEf", about{}, "tmp_pack_*"},

		{"tmpq8w_3kd1", in, "tmp*"},
		{"tmpqxwzokdl", in, "tmp*"},
		{"tmp.Qm3kPzAbCd", in, "tmp.*"},
		{"tmp.QmXkPzAbCd", in, "tmp.*"},
		{"build-812.log", in, "build-*.log"},
		{"ccAbXy12.o", in, "*.o"},
		{"ccDCGGvg.cdtor.o", in, "*.cdtor.o"},
		{"x-38B40x", in, "x-*"},
		{"results.txt", in, "results.txt"},
		{"Report1.txt", in, "Report1.txt"},

		{"x-abcdef", both, "x-*"},
		{"abcdefgh", both, "*"},
		{"_22z7w_a", both, "*"},
		{"tmp_9avhfi6", both, "tmp*"},
		{"results.json", both, "results.json"},
		{"pre-commit.sample", gone, "pre-commit.sample"},
		{"description", gone, "description"},
		{"branches", gone, "branches"},
		{"Makefile", gone, "Makefile"},
		{"index.lock", about{vanished: true, became: "index"}, "index.lock"},
		{"packs_abcdef", about{vanished: true, became: "packs"}, "packs_*"},
		{"packs_r7BL8B", about{vanished: true, became: "packs"}, "packs*"},
		{"sedabcdef", about{vanished: true, became: "final"}, "sed*"},
		{"config.lock", about{vanished: true, became: "config.new"}, "config.lock"},
	} {
		if got := generalise(tt.name, tt.a); got != tt.want {
			t.Errorf("%q (%+v) became %q, want %q", tt.name, tt.a, got, tt.want)
		}
	}
}

// TestTemporaryNames: names that programs really make are found to be made up, whichever letters chance puts into them.
func TestTemporaryNames(t *testing.T) {
	const (
		alnum  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		python = "abcdefghijklmnopqrstuvwxyz0123456789_"
	)
	in, gone := about{temporary: true, vanished: true}, about{vanished: true}
	moved := func(to string) about { return about{vanished: true, became: to} }
	for _, kind := range []struct {
		before, letters string
		many            int
		a               about
		want            string
	}{
		{"tmp.", alnum, 10, in, "tmp.*"},         // mktemp(1)
		{"tmp", python, 8, in, "tmp*"},           // Python's tempfile
		{"", python, 8, in, "*"},                 // the same, trying a folder
		{"x-", alnum, 6, in, "x-*"},              // Node's mkdtemp
		{"cc", alnum, 6, in, "*"},                // GCC
		{"sed", alnum, 6, moved("file"), "sed*"}, // sed -i
		{"tmp_obj_", alnum, 6, gone, "tmp_obj_*"},
		{"tmp_pack_", alnum, 6, moved("pack-1"), "tmp_pack_*"},
		{".gitstatus.", alnum, 6, moved("index"), ".gitstatus.*"},
	} {
		chance := rand.New(rand.NewPCG(1, 2))
		failed := 0
		for range 20000 {
			name := kind.before
			for range kind.many {
				name += string(kind.letters[chance.IntN(len(kind.letters))])
			}
			if got := generalise(name, kind.a); got != kind.want {
				if failed++; failed <= 3 {
					t.Errorf("%q became %q, want %q", name, got, kind.want)
				}
			}
		}
		if failed > 0 {
			t.Errorf("%s: %d of 20000", kind.before, failed)
		}
	}
}
