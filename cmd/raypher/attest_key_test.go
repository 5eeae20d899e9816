package main

import (
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
)

func TestDescribeRequest(t *testing.T) {
	for _, c := range []struct {
		namespace  string
		authority  bool
		nonce, out string
		want       string // in the error; empty: good
		purpose    journal.Purpose
	}{
		{"prod", false, "", "", "", journal.PurposeNamespace},
		{"", true, "", "", "", journal.PurposeTLSAuthority},
		{"", true, "0011223344556677", "f", "", journal.PurposeTLSAuthority},
		{"", false, "", "", "name one of", ""},
		{"prod", true, "", "", "name one of", ""},
		{"prod", false, "0011223344556677", "", "belong together", ""},
		{"prod", false, "", "f", "belong together", ""},
		{"prod", false, "00", "f", "--nonce", ""},
		{"prod", false, "xx", "f", "--nonce", ""},
		{"prod", false, strings.Repeat("00", 65), "f", "--nonce", ""},
	} {
		r, err := describeRequest(c.namespace, c.authority, c.nonce, c.out)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v", c, err)
		}
		if err == nil && (r.Purpose != string(c.purpose) || r.Name != c.namespace || len(r.Nonce) < 8) {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}
