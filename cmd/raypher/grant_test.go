package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/lease"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func TestParseAmount(t *testing.T) {
	for text, want := range map[string]struct {
		n    uint64
		unit string
	}{
		"500usd": {500_000_000, lease.MicroUSD}, "0.25usd": {250_000, lease.MicroUSD}, "1.000001usd": {1_000_001, lease.MicroUSD},
		"100000visas": {100000, lease.Visas}, "0usd": {0, lease.MicroUSD},
		"": {}, "500": {}, "usd": {}, "1.usd": {}, ".5usd": {}, "1.0000001usd": {}, "-1usd": {}, "1e3usd": {}, "1.5visas": {}, "500eur": {},
		"99999999999999999999usd": {}, "18446744073709usd": {}, "1.+5usd": {}, "visas": {},
	} {
		n, unit, err := parseAmount(text)
		if n != want.n || unit != want.unit || (err == nil) != (want.unit != "") || err != nil && !errors.Is(err, errAmount) {
			t.Errorf("%q: %d %s, %v", text, n, unit, err)
		}
	}
}

// An operator signs offline what a host has shown, and sees what was signed.
func TestGrantSignAndShow(t *testing.T) {
	dir := t.TempDir()
	key, out := filepath.Join(dir, "op"), filepath.Join(dir, "grant")
	run := func(args ...string) (string, error) {
		c := grantCommand()
		if args[0] == "keygen" {
			c = ceilingCommand()
		}
		var text bytes.Buffer
		c.SetOut(&text)
		c.SetErr(&text)
		c.SetArgs(args)
		err := c.Execute()
		return text.String(), err
	}
	if _, err := run("keygen", key); err != nil {
		t.Fatal(err)
	}
	anchor := fmt.Sprintf("sha256:%x", sha256.Sum256(nil))
	args := []string{"sign", "--version", "3", "--cap", "500usd", "--anchor", anchor, "--baseline", "17", "--period", "2026-11", "--key", key, "-o", out}
	if text, err := run(args...); err != nil || !strings.Contains(text, "version 3, 500.000000 usd in 2026-11, 100 leases") {
		t.Fatalf("%s, %v", text, err)
	}
	shown, err := run("show", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"version 3, 500.000000 usd for the whole host", "from 2026-11-01T00:00:00Z until 2026-12-01T00:00:00Z", "100 of 5.000000 usd", anchor + ", baseline 17", "not verified"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ceiling.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ceiling.PublicKey(private)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Open(signed, [][]byte{public}); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][]string{
		{"--anchor", "sha256:00"}, {"--cap", "5"}, {"--lease", "10visas"}, {"--lease", "0.1usd"}, {"--period", "november"}, {"--not-after", "tomorrow"}, {"--not-after", "2027-01-01T00:00:00Z"},
	} {
		if _, err := run(append(args, wrong...)...); err == nil {
			t.Errorf("%q is signed", wrong)
		}
	}
	var status bytes.Buffer
	err = printCredit(&status, &parentv1.OperatorGrantStatus{Anchor: make([]byte, 32), AnchorTier: "software", Counter: 18, HighestVersion: 2, Grant: signed, Taken: 1, Open: 5, Left: 495_000_000, Ahead: [][]byte{signed}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"counter       18", "whoever has the files of this host can spend again", "1 lease, 0.000005 usd left in what is open, 495.000000 usd", "waits         version 3, 500.000000 usd, from 2026-11-01T00:00:00Z", "--version 4", "--baseline 18"} {
		if !strings.Contains(status.String(), want) {
			t.Errorf("no %q in\n%s", want, status.String())
		}
	}
}

// Several months are signed at once: versions and baselines rise, with room for top-ups, and each lies in the month of its zone.
func TestGrantsAhead(t *testing.T) {
	f := grantFlags{version: 7, baseline: 17, most: "10usd", size: "1usd", anchor: "sha256:" + strings.Repeat("ab", 32), zone: "Europe/Berlin", period: "2026-11", ahead: 2}
	g, err := f.grant(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	months, err := f.months(g)
	if err != nil || len(months) != 3 {
		t.Fatalf("%d, %v", len(months), err)
	}
	last := months[2]
	if last.Period != "2027-01" || last.Version != 207 || last.Baseline != 17+2*2*10 || clock(last.NotBefore) != "2026-12-31T23:00:00Z" || last.Zone != "Europe/Berlin" {
		t.Errorf("%+v", last)
	}
	for _, bad := range []grantFlags{{ahead: -1}, {ahead: 24}, {ahead: 1, notBefore: "2026-11-30T12:00:00Z"}} {
		if _, err := bad.months(g); err == nil {
			t.Errorf("%+v is signed", bad)
		}
	}
}
