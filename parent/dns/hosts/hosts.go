// Package hosts reads the hosts file, hosts(5). Programs read it without asking a DNS server, so the guard and the forwarder
// have to know what it says.
package hosts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Path is where the hosts file lies.
const Path = "/etc/hosts"

// Table has the addresses of each name; names are lower case, without a trailing dot.
type Table map[string][]netip.Addr

// Read reads a hosts file; one that does not exist is empty.
func Read(path string) (Table, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Table{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hosts file: %w", err)
	}
	defer f.Close()
	t, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("hosts file %s: %w", path, err)
	}
	return t, nil
}

// Parse reads the format of hosts(5). Lines that it cannot read are passed over, as the C library does.
func Parse(r io.Reader) (Table, error) {
	t := Table{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.TrimSuffix(strings.ToLower(name), ".")
			if a := addr.Unmap(); name != "" && !slices.Contains(t[name], a) {
				t[name] = append(t[name], a)
			}
		}
	}
	return t, lines.Err()
}
