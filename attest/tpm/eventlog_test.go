package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// logged is one event of a log in the tests.
type logged struct {
	pcr, kind uint32
	digest    [32]byte
}

func digestOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// eventLog writes a crypto-agile log with SHA-1 and SHA-256.
func eventLog(events ...logged) []byte {
	le := binary.LittleEndian
	body := append([]byte(specSignature), 0, 0, 0, 0, 0, 2, 0, 2)
	body = le.AppendUint32(body, 2)
	body = append(body, 4, 0, 20, 0, 0x0b, 0, 32, 0, 0)
	log := le.AppendUint32(le.AppendUint32(nil, 0), evNoAction)
	log = append(log, make([]byte, 20)...)
	log = append(le.AppendUint32(log, uint32(len(body))), body...)
	for _, e := range events {
		log = le.AppendUint32(le.AppendUint32(le.AppendUint32(log, e.pcr), e.kind), 2)
		log = append(log, 4, 0)
		log = append(log, make([]byte, 20)...)
		log = append(log, 0x0b, 0)
		log = append(log, e.digest[:]...)
		text := []byte("event")
		if e.kind == evNoAction {
			text = []byte(startupLocality + "\x03")
		}
		log = append(le.AppendUint32(log, uint32(len(text))), text...)
	}
	return log
}

func extended(start byte, digests ...[32]byte) (out [32]byte) {
	out[31] = start
	for _, d := range digests {
		out = sha256.Sum256(append(out[:], d[:]...))
	}
	return out
}

func TestEventLog(t *testing.T) {
	a, b := digestOf("firmware"), digestOf("boot loader")
	log := eventLog(logged{0, evNoAction, [32]byte{}}, logged{0, 8, a}, logged{4, 13, b}, logged{4, 13, a})
	good := []PCR{{0, extended(3, a)}, {4, extended(0, b, a)}, {7, [32]byte{}}, {16, digestOf("ours")}}
	if err := replay(log, good); err != nil {
		t.Fatal(err)
	}
	for i := range log {
		bent := bytes.Clone(log)
		bent[i] ^= 1
		err := replay(bent, good)
		// Descriptions of events and SHA-1 digests prove nothing and may say anything; so may the header's version.
		if err == nil && !unmeasured(log, i) {
			t.Errorf("byte %d changed, and the log is taken", i)
		}
	}
	for i := range log {
		if err := replay(log[:i], good); err == nil {
			t.Errorf("cut at %d, and the log is taken", i)
		}
	}
	if err := replay(eventLog(logged{0, evNoAction, [32]byte{}}, logged{0, 8, a}, logged{4, 13, a}, logged{4, 13, b}), good); err == nil {
		t.Error("events in another order, and the log is taken")
	}
}

// unmeasured says whether byte i of a log belongs to what is not extended: found by asking whether a changed byte leaves the
// SHA-256 digests, PCR numbers and kinds as they are.
func unmeasured(log []byte, i int) bool {
	bent := bytes.Clone(log)
	bent[i] ^= 1
	before, _, err1 := replayLog(log)
	after, _, err2 := replayLog(bent)
	return err1 == nil && err2 == nil && before == after
}

func FuzzEventLog(f *testing.F) {
	f.Add(eventLog(logged{0, evNoAction, [32]byte{}}, logged{0, 8, digestOf("a")}))
	f.Add(eventLog())
	f.Add([]byte("no log"))
	f.Fuzz(func(t *testing.T, log []byte) {
		if _, _, err := replayLog(log); err == nil && len(log) < 32 {
			t.Error("a log shorter than its header is taken")
		}
	})
}
