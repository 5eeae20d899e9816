package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestProviderKeysStayInTheEnclave: a key that an operator gave the enclave is in the memory of no other process of Raypher, in no file but the
// enclave's own, in no line of a log; and the enclave's memory cannot be read by its own user, nor dumped.
func TestProviderKeysStayInTheEnclave(t *testing.T) {
	m := newMachine(t)
	operator := m.find("operator.key")
	// Made at run time, so that it is in no program's text.
	secret := fmt.Sprintf("sk-%x", []byte(t.Name()))
	add := func(word, secret string) outcome {
		return m.finish(context.WithoutCancel(t.Context()), secret+"\n", "keys", word, "openai", "--key", operator)
	}
	if got := add("rotate", secret); got.code == 0 || !strings.Contains(got.stderr, "there is no key openai") {
		t.Errorf("a key that is not there: %+v", got)
	}
	got := add("add", secret)
	if got.code != 0 || !strings.Contains(got.stdout, "no protection") {
		t.Fatalf("%+v", got)
	}
	var listed []struct{ Name, Fingerprint string }
	if err := json.Unmarshal([]byte(m.raypher("keys", "list", "--json").stdout), &listed); err != nil || len(listed) != 1 || listed[0].Name != "openai" || len(listed[0].Fingerprint) != 8 {
		t.Fatalf("%+v, %v", listed, err)
	}
	first := listed[0].Fingerprint
	if got := add("rotate", secret+"2"); got.code != 0 || strings.Contains(got.stdout, first) {
		t.Errorf("rotated: %+v", got)
	}
	var enclaves, others int
	for _, pid := range m.pair.Processes() {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.HasPrefix(string(name), "raypher-enclave") {
			enclaves++
			m.undumpable(pid)
			if n := occurrences(t, pid, secret); n == 0 {
				t.Error("the search does not find the key where it is")
			}
		} else if others++; occurrences(t, pid, secret) > 0 {
			t.Errorf("%s (%d) has the key in its memory", strings.TrimSpace(string(name)), pid)
		}
	}
	if enclaves != 1 || others == 0 {
		t.Errorf("%d enclaves, %d other processes", enclaves, others)
	}
	m.inNoFile(secret)
	if got := m.raypher("keys", "remove", "openai", "--key", operator); got.code != 0 {
		t.Errorf("removed: %+v", got)
	}
	if got := m.raypher("keys", "list"); !strings.HasPrefix(got.stdout, "no keys") {
		t.Errorf("after it: %+v", got)
	}
}

// find is the path of a file in the home's root.
func (m *machine) find(name string) (found string) {
	m.t.Helper()
	err := filepath.WalkDir(m.home.Root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		m.t.Fatalf("no file %s: %v", name, err)
	}
	return found
}

// undumpable holds that a process leaves no core file, and that others of its user do not get at its memory: what belongs to a process that may not
// be dumped is root's (proc_pid(5)).
func (m *machine) undumpable(pid int) {
	m.t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			m.t.Errorf("enclave: %s", line)
		}
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		m.t.Fatal(err)
	}
	if owner := fmt.Sprintf("%+v", info.Sys()); !strings.Contains(owner, "Uid:0 ") {
		m.t.Errorf("the enclave's memory belongs to its user: %s", owner)
	}
}

// occurrences counts a text in the memory of a process, plain and in base64.
func occurrences(t *testing.T, pid int, text string) (n int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		from, to, _ := strings.Cut(fields[0], "-")
		begin, err1 := strconv.ParseInt(from, 16, 64)
		end, err2 := strconv.ParseInt(to, 16, 64)
		if err1 != nil || err2 != nil || !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		const window = 1 << 20
		buffer := make([]byte, window+2*len(text))
		for at := begin; at < end; at += window {
			read, _ := memory.ReadAt(buffer[:min(int64(len(buffer)), end-at)], at) // parts that are not there are nobody's memory
			for _, form := range forms(text) {
				n += bytes.Count(buffer[:read], form)
			}
		}
		clear(buffer)
	}
	return n
}

// forms are how a secret may stand somewhere.
func forms(text string) [][]byte {
	return [][]byte{[]byte(text), []byte(base64.RawStdEncoding.EncodeToString([]byte(text)))[:len(text)]}
}

// inNoFile holds that no file of the home has a text in it but the one of the enclave.
func (m *machine) inNoFile(text string) {
	m.t.Helper()
	own := 0
	err := filepath.WalkDir(m.home.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, form := range forms(text) {
			switch has := bytes.Contains(content, form); {
			case has && d.Name() == "provider-keys":
				own++
			case has:
				m.t.Errorf("%s has the key in it", path)
			}
		}
		return nil
	})
	if err != nil || own != 1 {
		m.t.Errorf("%d files of the enclave, %v", own, err)
	}
}
