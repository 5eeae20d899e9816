package attend

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// filled sets every field of a message, so that none can be forgotten.
func filled(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(t, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			filled(t, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		filled(t, v.Index(1))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]uint64{"open-read": 1<<64 - 1}))
	case reflect.String:
		v.SetString("\x00 \"wörter\" </>")
	case reflect.Uint64:
		v.SetUint(1<<64 - 1)
	case reflect.Uint32:
		v.SetUint(1<<32 - 1)
	case reflect.Int32, reflect.Int64:
		v.SetInt(-1 << (v.Type().Bits() - 1))
	case reflect.Uint8:
		v.SetUint(255)
	case reflect.Bool:
		v.SetBool(true)
	default:
		t.Fatalf("a field of kind %v", v.Kind())
	}
}

// pair is a session and raypherd's end of it.
func pair(t *testing.T) (*Session, *Accepted) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	session, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted := Accept(conn)
	t.Cleanup(func() { session.Close(); accepted.Close() })
	return session, accepted
}

// TestSession: every message arrives as it was sent, in its order, and each side notices the other's end.
func TestSession(t *testing.T) {
	session, accepted := pair(t)
	var said WardenMessage
	filled(t, reflect.ValueOf(&said).Elem())
	for range 2 {
		if err := session.Send(&said); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got, err := accepted.Recv(); err != nil || !reflect.DeepEqual(got, &said) {
			t.Fatalf("%v: %+v", err, got)
		}
	}
	var answer ParentMessage
	filled(t, reflect.ValueOf(&answer).Elem())
	answer.Refused = nil // it ends the session: TestRefusedIsTheEnd
	if err := accepted.Send(&answer); err != nil {
		t.Fatal(err)
	}
	if got, err := session.Recv(); err != nil || !reflect.DeepEqual(got, &answer) {
		t.Fatalf("%v: %+v", err, got)
	}
	if err := session.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last word: %v", err)
	}
	if err := accepted.Send(&ParentMessage{End: &End{Reason: "late"}}); err != nil {
		t.Errorf("a warden that said everything hears nothing: %v", err)
	}
	if got, err := session.Recv(); err != nil || got.Kind() != "end" {
		t.Errorf("%v: %+v", err, got)
	}
	accepted.Close()
	if _, err := session.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after raypherd's end: %v", err)
	}
}

// TestRefusedIsTheEnd: who is refused, or served no longer, is left with no connection. A warden opens another one each time.
func TestRefusedIsTheEnd(t *testing.T) {
	session, accepted := pair(t)
	if err := accepted.Send(&ParentMessage{Refused: &Refused{Reason: "no"}}); err != nil {
		t.Fatal(err)
	}
	if m, err := session.Recv(); err != nil || m.Refused.Reason != "no" {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := accepted.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the refusal: %v", err)
	}
}

// TestTermsDiffer: two terms of which any field differs are not the same: what was made ready for one would count for the other.
func TestTermsDiffer(t *testing.T) {
	var terms Terms
	filled(t, reflect.ValueOf(&terms).Elem())
	same := terms
	if !terms.Equal(&same) {
		t.Error("terms differ from themselves")
	}
	for i := range reflect.TypeFor[Terms]().NumField() {
		other := terms
		field := reflect.ValueOf(&other).Elem().Field(i)
		field.SetZero()
		if terms.Equal(&other) || other.Equal(&terms) {
			t.Errorf("%s makes no difference", reflect.TypeFor[Terms]().Field(i).Name)
		}
	}
}

// TestFirstByte: raypherd tells wardens from others by it, for messages of every size.
func TestFirstByte(t *testing.T) {
	for _, size := range []int{0, 1 << 8, 1 << 16, 3 << 20} {
		var sent bytes.Buffer
		if err := write(&sent, &WardenMessage{Launch: &Launch{Name: strings.Repeat("x", size)}}); err != nil || sent.Bytes()[0] != FirstByte {
			t.Errorf("%d bytes: %v, % x", size, err, sent.Bytes()[:min(sent.Len(), 4)])
		}
	}
}

// TestText: what JSON cannot say is not sent as something else.
func TestText(t *testing.T) {
	for text, sent := range map[string]bool{
		"/caf\xe9": false, "\xff": false, `\` + "\xff": false, `\ufffd` + "\xff": false, "\xed\xa0\x80": false,
		"": true, "/café": true, "\ufffd": true, `\ufffd`: true, `\\ufffd`: true, `a\`: true, "\u2028": true,
	} {
		var buf bytes.Buffer
		err := write(&buf, &ParentMessage{Expected: &Terms{ClosedPaths: []string{"/run", text}}})
		if sent != (err == nil) || !sent && !errors.Is(err, ErrNotText) {
			t.Errorf("%q: %v", text, err)
		}
		var m ParentMessage
		if sent && (read(&buf, &m) != nil || m.Expected.ClosedPaths[1] != text) {
			t.Errorf("%q arrived as %+v", text, m.Expected)
		}
	}
}

// TestBounds: what is too large is not sent, and not read either; what is announced and does not come takes no memory.
func TestBounds(t *testing.T) {
	session, accepted := pair(t)
	if err := session.Send(&WardenMessage{Launch: &Launch{Policy: make([]byte, MaxMessage)}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("sent too much: %v", err)
	}
	if err := session.Send(&WardenMessage{Started: &Started{}}); err != nil {
		t.Errorf("what follows a message that is too large: %v", err)
	}
	if m, err := accepted.Recv(); err != nil || m.Started == nil {
		t.Errorf("what follows a message that is too large: %+v, %v", m, err)
	}
	for name, raw := range map[string][]byte{
		"too large":       binary.BigEndian.AppendUint32(nil, MaxMessage+1),
		"cut off":         append(binary.BigEndian.AppendUint32(nil, 100), '{'),
		"no message":      {0, 0},
		"empty":           {0, 0, 0, 0},
		"no JSON":         {0, 0, 0, 1, '}'},
		"two values":      append(binary.BigEndian.AppendUint32(nil, 4), "{}{}"...),
		"other type":      append(binary.BigEndian.AppendUint32(nil, 2), "[]"...),
		"a pid too large": append(binary.BigEndian.AppendUint32(nil, 37), `{"launch":{"runner_pid": 4294967297}}`...),
	} {
		err := read(bytes.NewReader(raw), &WardenMessage{})
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	announced := append(binary.BigEndian.AppendUint32(nil, MaxMessage), "few"...)
	if n := testing.AllocsPerRun(10, func() { _ = read(bytes.NewReader(announced), &WardenMessage{}) }); n > 30 {
		t.Errorf("%v allocations for a message that does not come", n)
	}
}

// TestHurry: raypherd waits for no warden that does not listen.
func TestHurry(t *testing.T) {
	_, accepted := pair(t)
	sent := make(chan error, 1)
	go func() {
		sent <- accepted.Send(&ParentMessage{Seen: &Seen{Verdict: make([]byte, 2<<20)}}) // more than the socket takes
	}()
	accepted.Hurry()
	select {
	case err := <-sent:
		if err == nil {
			t.Error("all of it was sent to nobody")
		}
	case <-time.After(time.Minute):
		t.Error("it waits")
	}
}

// TestSessionEndsWithItsContext: whoever waits for an answer is let go.
func TestSessionEndsWithItsContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	session, err := Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := session.Recv()
		ended <- err
	}()
	cancel()
	if err := <-ended; err == nil {
		t.Error("an answer without raypherd")
	}
}

func FuzzRead(f *testing.F) {
	var launch, granted bytes.Buffer
	_ = write(&launch, &WardenMessage{Launch: &Launch{Policy: []byte("mode: audit"), Argv: []string{"sh"}}})
	_ = write(&granted, &ParentMessage{Granted: &Granted{AgentID: "a", Terms: Terms{Permit: []byte("{}")}}})
	f.Add(launch.Bytes())
	f.Add(granted.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, m := range []any{&WardenMessage{}, &ParentMessage{}} {
			if read(bytes.NewReader(raw), m) != nil {
				continue
			}
			var again bytes.Buffer
			if err := write(&again, m); err != nil && !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
		}
	})
}
