package eif_test

import (
	"bytes"
	"crypto/elliptic"
	"testing"

	"github.com/raypher/raypher/attest/eif"
)

// FuzzParse: no input makes it panic, and what it accepts holds together: the sections fill the image, and building it anew
// from its parts gives the same measurements.
func FuzzParse(f *testing.F) {
	raw := ok(eif.Build(contents()))(f)
	who := newIdentity(f, elliptic.P384())
	f.Add(raw)
	f.Add(ok(eif.Sign(raw, who.key, who.certificate))(f))
	f.Add(raw[:eif.HeaderSize])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= eif.HeaderSize {
			raw = eif.Reseal(bytes.Clone(raw)) // or nothing would get past the CRC
		}
		image, err := eif.Parse(raw)
		if err != nil {
			return
		}
		size := eif.HeaderSize
		for _, s := range image.Sections {
			size += 12 + len(s.Data)
		}
		if size != len(raw) {
			t.Fatalf("sections of %d bytes in an image of %d", size, len(raw))
		}
		if image.Signature != nil {
			return
		}
		again, err := eif.Build(eif.Contents{Kernel: image.Kernel(), CommandLine: image.CommandLine(), Ramdisks: image.Ramdisks()})
		if err != nil {
			return // the builder refuses more than the reader
		}
		if ok(eif.Parse(again))(t).Measurements != image.Measurements {
			t.Fatal("the same parts, other measurements")
		}
	})
}
