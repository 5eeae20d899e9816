package audit_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
)

const killedWriter = "RAYPHER_TEST_AUDIT_WRITER"

// TestKilledWriter kills a real writing process again and again; each time all that it said it had acknowledged is there.
func TestKilledWriter(t *testing.T) {
	if dir := os.Getenv(killedWriter); dir != "" {
		writeForever(t, dir)
		return
	}
	dir := t.TempDir()
	for round := range 8 {
		acknowledged := killWriter(t, dir, time.Duration(5+rand.IntN(60))*time.Millisecond)
		s, err := audit.Open(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for epoch, size := range acknowledged {
			id, err := parseEpoch(epoch)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Size(id); got < size {
				t.Fatalf("round %d: %d entries of epoch %s, %d were acknowledged", round, got, epoch, size)
			}
		}
		if _, err := s.Verify(evidence.Options{AllowSoftware: true}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		t.Logf("round %d: %d epochs, recovered %+v", round, len(s.Epochs()), s.Recovered())
		s.Close()
	}
}

func parseEpoch(text string) (journal.EpochID, error) {
	var raw []byte
	if _, err := fmt.Sscanf(text, "%x", &raw); err != nil {
		return journal.EpochID{}, err
	}
	return journal.ParseEpochID(raw)
}

// killWriter starts the writer, kills it some time after its first acknowledgement and returns what it said.
func killWriter(t *testing.T, dir string, after time.Duration) map[string]uint64 {
	t.Helper()
	writer := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
	writer.Env = append(os.Environ(), killedWriter+"="+dir)
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	said := map[string]uint64{}
	for lines.Scan() {
		epoch, size, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "ok "), " ")
		if n, err := strconv.ParseUint(size, 10, 64); ok && err == nil {
			if len(said) == 0 {
				time.AfterFunc(after, func() { writer.Process.Kill() })
			}
			said[epoch] = n
		}
	}
	io.Copy(io.Discard, out)
	writer.Wait()
	if len(said) == 0 {
		t.Fatal("the writer acknowledged nothing")
	}
	return said
}

// writeForever appends batches of all sizes and says each acknowledgement on standard output, now and then in a new epoch.
func writeForever(t *testing.T, dir string) {
	s, err := audit.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := journaltest.NewKey(t)
	for {
		l := journaltest.NewAfter(t, key, predecessor(t, s))
		for range 20 {
			fill(t, s, l, 1+rand.IntN(40))
			fmt.Printf("ok %s %d\n", l.Epoch, l.Tree.Size())
		}
	}
}
