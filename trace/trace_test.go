package trace

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestRecordAndRead: what is recorded is read back, each distinct thing once, with its end.
func TestRecordAndRead(t *testing.T) {
	var out bytes.Buffer
	r := NewRecorder(&out, Header{Argv: []string{"make", "a\nb"}, Home: "/root"})
	first := Entry{Operation: "open-read", Access: AccessRead, Path: "/a \"b\"\n<c>"}
	r.Add(first)
	r.Add(first)
	r.Add(Entry{Operation: Rename, Access: AccessWrite, Path: "/a", To: "/b", Folder: true})
	r.Lose(3, "no room")
	r.Close()
	got, err := Read(&out)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Entries) != 2 || got.Entries[0] != first || !got.Entries[1].Folder || got.Home != "/root" || got.Argv[1] != "a\nb" {
		t.Errorf("read %+v", got)
	}
	if why, lost := got.Lost(); !lost || why != "no room" || got.End.Lost != 3 {
		t.Errorf("the loss is %q, %v", why, lost)
	}
	if n := r.Trace().Entries[0].Count; n != 2 {
		t.Errorf("the first was done %d times, want 2", n)
	}
}

// TestWhatIsNotRecordedIsCounted: what finds no room, or has no name that can be written, is a loss.
func TestWhatIsNotRecordedIsCounted(t *testing.T) {
	for _, tt := range []struct {
		name string
		add  func(*Recorder)
	}{
		{"a name that is not UTF-8", func(r *Recorder) { r.Add(Entry{Operation: "unlink", Path: "/a\xff"}) }},
		{"too many", func(r *Recorder) {
			for i := range MaxEntries + 1 {
				r.Add(Entry{Operation: "unlink", Path: "/" + strings.Repeat("a", i%4000) + string(rune('0'+i/4000))})
			}
		}},
	} {
		r := NewRecorder(nil, Header{})
		tt.add(r)
		if why, lost := r.Trace().Lost(); !lost || why == "" {
			t.Errorf("%s: lost %v, %q", tt.name, lost, why)
		}
	}
}

// TestLeavingTheCgroup: what was done on the network outside the run's cgroup is missing, whatever the end says; looking is no leaving.
func TestLeavingTheCgroup(t *testing.T) {
	for access, want := range map[string]bool{AccessWrite: true, AccessRead + AccessWrite: true, AccessRead: false} {
		left := &Trace{Entries: []Entry{{Operation: "open-write", Access: access, Path: "/sys/fs/cgroup/cgroup.procs", Fixed: true}}, End: &End{Entries: 1}}
		if why, lost := left.Lost(); lost != want || (why != "") != want {
			t.Errorf("%s: lost %v, %q", access, lost, why)
		}
	}
}

// full takes so many bytes and then fails, as a disk that is full.
type full struct {
	bytes.Buffer
	room int
}

func (f *full) Write(b []byte) (int, error) {
	if f.Len()+len(b) > f.room {
		return 0, errors.New("no space left")
	}
	return f.Buffer.Write(b)
}

// TestCutOff: a trace that could not be written to its end says so when it is read.
func TestCutOff(t *testing.T) {
	out := &full{room: 200}
	r := NewRecorder(out, Header{})
	for _, path := range []string{"/a", "/b", "/c", "/d", "/e"} {
		r.Add(Entry{Operation: "unlink", Access: AccessWrite, Path: path})
	}
	r.Close()
	got, err := Read(&out.Buffer)
	if err != nil {
		t.Fatal(err)
	}
	if _, lost := got.Lost(); !lost || len(got.Entries) == 5 {
		t.Errorf("a trace of %d entries passes for whole", len(got.Entries))
	}
}

func TestMerge(t *testing.T) {
	a := &Trace{Header: Header{Home: "/h"}, Entries: []Entry{{Operation: "x", Path: "/1"}}, End: &End{Entries: 1}}
	b := &Trace{Header: Header{Home: "/h"}, Entries: []Entry{{Operation: "x", Path: "/1"}, {Operation: "x", Path: "/2"}}, End: &End{Entries: 2, Lost: 1}}
	got := Merge(a, b)
	want := []Entry{{Operation: "x", Path: "/1", Count: 2}, {Operation: "x", Path: "/2", Count: 1}}
	if !reflect.DeepEqual(got.Entries, want) || got.End.Lost != 1 || got.Home != "/h" {
		t.Errorf("merged: %+v %+v", got, got.End)
	}
	if got := Merge(a, &Trace{Header: Header{Home: "/other"}}); got.End != nil || got.Home != "" {
		t.Errorf("with one that was cut off, of another home: %+v", got)
	}
}

func TestReadRefuses(t *testing.T) {
	const head = `{"raypher_trace":1,"argv":[],"home":"/","started":"2026-01-01T00:00:00Z"}` + "\n"
	for _, text := range []string{
		"", "hello", `{"raypher_trace":2}`, `{"op":"open-read","path":"/a"}`,
		head + `{"op":"open-read","path":"a"}`,
		head + `{"op":"open-read","path":"/a/../b"}`,
		head + `{"op":"open-read","path":"/a","access":"q"}`,
		head + `{"path":"/a"}`,
		head + `{"op":"open-read","paths":"/a"}`,
		head + `{"op":"a"}{"op":"b"}`,
		head + `{"end":{"entries":0,"lost":0}}` + "\n" + `{"op":"a"}`,
		head + `{"op":"` + strings.Repeat("a", maxLine) + `"}`,
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

// FuzzRead: whatever is read can be written and is then read the same.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"raypher_trace":1,"argv":["a"],"home":"/","started":"2026-01-01T00:00:00Z"}
{"op":"rename","access":"w","path":"/a","to":"/b"}
{"op":"resolve","name":"x.example","address":"192.0.2.1"}
{"end":{"entries":2,"lost":0}}
`))
	f.Add([]byte(`{"raypher_trace":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		text, err := first.Encode()
		if err != nil {
			t.Fatal(err)
		}
		second, err := Read(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(first, second) {
			t.Errorf("%+v became %+v", first, second)
		}
		Merge(first, second)
	})
}
