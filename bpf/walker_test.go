package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// walker runs include/automaton.h in this kernel.
type walker struct{ objects WalkerObjects }

func newWalker(t testing.TB) *walker {
	t.Helper()
	w := &walker{}
	_ = rlimit.RemoveMemlock() // kernels >= 5.11 need none
	if err := LoadWalkerObjects(&w.objects, nil); errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, os.ErrPermission) {
		t.Skipf("SKIPPED: this kernel or user loads no BPF programs: %v", err)
	} else if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { _ = w.objects.Close() })
	return w
}

// hold puts the table where the walk finds it.
func (w *walker) hold(t testing.TB, table *policy.Table) {
	t.Helper()
	cells, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: uint32(len(table.Cells)), Flags: unix.BPF_F_INNER_MAP,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cells.Close()
	keys := make([]uint32, len(table.Cells))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := cells.BatchUpdate(keys, table.Cells, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.Tables.Put(uint32(0), cells); err != nil {
		t.Fatal(err)
	}
}

// ask runs the walk repeat times, and returns the answer and the mean time of one.
func (w *walker) ask(t testing.TB, path string, access policy.Access, repeat uint32) (WalkerSaid, time.Duration) {
	t.Helper()
	question := make([]byte, binary.Size(WalkerAsked{}))
	binary.NativeEndian.PutUint32(question, uint32(len(path)))
	binary.NativeEndian.PutUint32(question[4:], uint32(access))
	copy(question[8:], path)
	if err := w.objects.Question.Put(uint32(0), question); err != nil {
		t.Fatal(err)
	}
	code, mean, err := w.objects.Walk.Benchmark(make([]byte, 64), int(repeat), nil)
	if err != nil || code != 0 {
		t.Fatalf("run the walk: %d, %v", int32(code), err)
	}
	var said WalkerSaid
	if err := w.objects.Answer.Lookup(uint32(0), &said); err != nil {
		t.Fatal(err)
	}
	return said, mean
}

// same compares the walk with the rules for every access of path.
func (w *walker) same(t testing.TB, rules *policy.Rules, path string) {
	t.Helper()
	for a := policy.Access(0); a <= policy.Read|policy.Write|policy.Exec; a++ {
		want := rules.Decide(path, a).Verdict
		if said, _ := w.ask(t, path, a, 1); policy.Verdict(said.Verdict) != want {
			t.Fatalf("%q access %d: the walk in the kernel says %v, the rules %v", path, a, policy.Verdict(said.Verdict), want)
		}
	}
}

func TestWalkDecidesAsTheRulesDo(t *testing.T) {
	w := newWalker(t)
	long := "/srv" + strings.Repeat("/folder", 583)
	for _, test := range []struct {
		name  string
		files policy.Filesystem
		paths []string
	}{
		{"nothing is granted", policy.Filesystem{}, []string{"", "/", "/a", "a"}},
		{"a tree and its root", policy.Filesystem{Read: []string{"/a/**"}}, []string{"/", "/a", "/ab", "/a/", "/a/b", "/a/b/c", "/a/./b", "/a//b", "/a/../b"}},
		{"one name", policy.Filesystem{Write: []string{"/a"}}, []string{"/a", "/a/b", "/b", "/A"}},
		{"deny inside read", policy.Filesystem{Read: []string{"/w/**"}, Deny: []string{"/w/**/.env", "/w/keys/**"}},
			[]string{"/w/.env", "/w/x/.env", "/w/x/.environ", "/w/keys", "/w/keys/k", "/w/keysx", "/w/.env/x"}},
		{"stars and characters", policy.Filesystem{Exec: []string{"/b/*.sh", "/c/?", "/d/{x,y{1,2}}/*"}},
			[]string{"/b/.sh", "/b/a.sh", "/b/a.sh.sh", "/b/c/a.sh", "/c/a", "/c/ab", "/c/é", "/c/\xff", "/c/\xe2\x82", "/d/x/", "/d/x/q", "/d/y1/q", "/d/y3/q"}},
		{"what is asked about", policy.Filesystem{Read: []string{"/w/**"}, RequireApproval: []string{"/w/out/**", "/n/*"}}, []string{"/w/out", "/w/out/a", "/n/a", "/n", "/w/a"}},
		{"bytes that are no text", policy.Filesystem{Read: []string{"/**"}, Deny: []string{"/*é"}}, []string{"/\xc3", "/\xc3\xa9", "/\xc3\xc3\xa9", "/a\nb", "/\xf0\x9f\x98\x80é"}},
		{"the longest paths", policy.Filesystem{Read: []string{"/srv/**"}, Deny: []string{"/**/end"}},
			[]string{long, long + "/end", long + "/ends", (long + strings.Repeat("x", 4096))[:4096]}},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules, table := compiled(t, &test.files)
			w.hold(t, table)
			for _, path := range test.paths {
				w.same(t, rules, path)
			}
		})
	}
}

// A path that is longer than the kernel's longest is refused, whatever is granted.
func TestWalkRefusesPathsBeyondTheLongest(t *testing.T) {
	w := newWalker(t)
	_, table := compiled(t, &policy.Filesystem{Read: []string{"/**"}})
	w.hold(t, table)
	if said, _ := w.ask(t, "/"+strings.Repeat("x", 4095), policy.Read, 1); policy.Verdict(said.Verdict) != policy.VerdictAllow {
		t.Errorf("4096 bytes: %+v", said)
	}
	question := make([]byte, binary.Size(WalkerAsked{}))
	binary.NativeEndian.PutUint32(question, 4097)
	binary.NativeEndian.PutUint32(question[4:], uint32(policy.Read))
	copy(question[8:], "/"+strings.Repeat("x", 4095))
	if err := w.objects.Question.Put(uint32(0), question); err != nil {
		t.Fatal(err)
	}
	var said WalkerSaid
	if _, _, err := w.objects.Walk.Test(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.Answer.Lookup(uint32(0), &said); err != nil || policy.Verdict(said.Verdict) != policy.VerdictBlock {
		t.Errorf("4097 bytes: %+v, %v", said, err)
	}
}

func compiled(t testing.TB, files *policy.Filesystem) (*policy.Rules, *policy.Table) {
	t.Helper()
	permit, err := (&policy.Policy{Filesystem: files}).Expand("/home/u")
	if err != nil {
		t.Fatal(err)
	}
	table, err := permit.FileTable()
	if err != nil {
		t.Fatal(err)
	}
	return permit.FileRules(), table
}

// FuzzWalk compares the walk in the kernel with the rules, for policies of any patterns and any path.
func FuzzWalk(f *testing.F) {
	w := newWalker(f)
	f.Add("/a/**", "/**/.env", "/a/{b,é?}*", "/a/.env")
	f.Add("/?\u20ac", "/*", "/**/b", "/a\xe2\x82\xac")
	compared := 0
	f.Cleanup(func() { f.Logf("compared %d paths with the kernel", compared) })
	f.Fuzz(func(t *testing.T, read, deny, third, path string) {
		if len(read)+len(deny)+len(third) > 120 || len(path) > 4096 {
			return
		}
		permit, err := (&policy.Policy{Filesystem: &policy.Filesystem{
			Read: []string{read, third}, Deny: []string{deny}, Exec: []string{third}, RequireApproval: []string{third + "/*"},
		}}).Expand("/home/u")
		if err != nil {
			return
		}
		table, err := permit.FileTable()
		if errors.Is(err, policy.ErrTable) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		compared++
		w.hold(t, table)
		w.same(t, permit.FileRules(), path)
	})
}

// BenchmarkWalk measures one walk in the kernel over paths of 60 bytes or so, with few and with many rules: it should be flat.
func BenchmarkWalk(b *testing.B) {
	w := newWalker(b)
	var first float64
	for _, n := range []int{10, 500, 5000} {
		r := rand.New(rand.NewPCG(7, 7))
		files := policy.Filesystem{Deny: []string{"/**/.env"}}
		for i := range n {
			list := &files.Read
			if i%2 != 0 {
				list = &files.Exec // a list has at most 4,096 patterns
			}
			*list = append(*list, fmt.Sprintf("/srv/tenants/%06x/project-%d/**", r.Uint32()&0xffffff, i))
		}
		_, table := compiled(b, &files)
		w.hold(b, table)
		path := strings.Replace(files.Read[n/4], "/**", "/source/package/module/of/the/file.go", 1)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			said, mean := w.ask(b, path, policy.Read, uint32(min(b.N, 1<<20)))
			if policy.Verdict(said.Verdict) != policy.VerdictAllow {
				b.Fatalf("%q: %+v", path, said)
			}
			if n == 10 {
				first = float64(mean)
			}
			b.ReportMetric(float64(mean), "ns/walk")
			b.ReportMetric(float64(mean)/first, "ratio")
		})
	}
}
