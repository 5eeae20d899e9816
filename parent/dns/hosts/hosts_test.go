package hosts

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := Parse(strings.NewReader("127.0.0.1\tLocalhost  here. # comment\n::1 localhost\n\n#10.0.0.1 no\n10.0.0.2\nx y\n::ffff:10.0.0.3 db\nfe80::1%eth0 z\n127.0.0.1 localhost"))
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr
	want := Table{"localhost": {a("127.0.0.1"), a("::1")}, "here": {a("127.0.0.1")}, "db": {a("10.0.0.3")}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestNoFileIsEmpty(t *testing.T) {
	if got, err := Read(t.TempDir() + "/none"); err != nil || len(got) != 0 {
		t.Errorf("%v, %v; want an empty table", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("127.0.0.1 localhost\n::1 localhost # x\nbad")
	f.Fuzz(func(t *testing.T, s string) {
		table, _ := Parse(strings.NewReader(s))
		for name, addrs := range table {
			if name == "" || name != strings.ToLower(name) || len(addrs) == 0 {
				t.Errorf("%q: %v", name, addrs)
			}
		}
	})
}
