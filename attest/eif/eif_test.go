package eif_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/eif"
)

// bzImage is the least that is recognized as a kernel: the boot flag, the magic, and a text with the version.
func bzImage() []byte {
	k := bytes.Repeat([]byte{0x90}, 1024)
	binary.LittleEndian.PutUint16(k[0x1fe:], 0xaa55)
	copy(k[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(k[0x20e:], 0x100)
	copy(k[0x300:], "6.1.0-test (someone@somewhere) #1\x00")
	return k
}

func arm64Image() []byte {
	k := make([]byte, 256)
	copy(k[56:], "ARM\x64")
	return k
}

func contents() eif.Contents {
	return eif.Contents{
		Kernel: bzImage(), CommandLine: "console=ttyS0 reboot=k", Ramdisks: [][]byte{[]byte("boot"), []byte("application"), []byte("more")},
		Name: "raypher", Version: "v1", Time: time.Unix(0, 0), Tool: "raypher", ToolVersion: "v1",
	}
}

func ok[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestKnownAnswers: values that were computed elsewhere.
func TestKnownAnswers(t *testing.T) {
	one := contents()
	one.Ramdisks = one.Ramdisks[:1]
	for _, c := range []struct {
		name             string
		contents         eif.Contents
		pcr0, pcr1, pcr2 string
	}{
		// SHA384(48 zero bytes, SHA384(parts)) of Python's hashlib.
		{
			"three ramdisks", contents(),
			"43f301f95f3fc6926ba6c0bda6d8ea351337f1dfd4abbcb659f7bbbc5df10305f729fa6603a2f9502d2b1b3f26db5279", "c2910b2323815908d75cfeebe17ae10683cc3d8a0e07e31fd0449d673cac8d74f89efb19a12ba9ffba055f8ca6831667", "30649eea49e95ea1b4861deee6bba85f80150ed4e5885e384c54d2a8c17c253c2be27ae43a5f5868f87bd9eaed337477",
		},
		// PCR2 of every public image with one ramdisk: the digest of nothing.
		{
			"one ramdisk", one,
			"c2910b2323815908d75cfeebe17ae10683cc3d8a0e07e31fd0449d673cac8d74f89efb19a12ba9ffba055f8ca6831667", "c2910b2323815908d75cfeebe17ae10683cc3d8a0e07e31fd0449d673cac8d74f89efb19a12ba9ffba055f8ca6831667",
			"21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := ok(eif.Parse(ok(eif.Build(c.contents))(t)))(t)
			m := image.Measurements
			for n, pair := range []struct {
				got  eif.PCR
				want string
			}{{m.PCR0, c.pcr0}, {m.PCR1, c.pcr1}, {m.PCR2, c.pcr2}} {
				if hex.EncodeToString(pair.got[:]) != pair.want {
					t.Errorf("PCR%d is %x, want %s", n, pair.got, pair.want)
				}
			}
			if m.PCR8 != nil || image.Signature != nil {
				t.Error("a signature nobody made")
			}
		})
	}
}

// TestSecondOpinion: another program, in another language, from the same description of the format, finds the same values.
func TestSecondOpinion(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	raw := ok(eif.Build(contents()))(t)
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out := ok(exec.Command(python, "testdata/measure.py", file).Output())(t)
	var theirs, ours map[string]string
	if err := json.Unmarshal(out, &theirs); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(ok(json.Marshal(ok(eif.Parse(raw))(t).Measurements))(t), &ours); err != nil {
		t.Fatal(err)
	}
	if len(ours) != 3 || len(theirs) != 3 {
		t.Fatalf("ours %v, theirs %v", ours, theirs)
	}
	for name, value := range theirs {
		if ours[name] != value {
			t.Errorf("%s: %s, the second program says %s", name, ours[name], value)
		}
	}
}

// TestBuild: the same contents make the same bytes, in the layout of the format, and come back.
func TestBuild(t *testing.T) {
	raw := ok(eif.Build(contents()))(t)
	if again := ok(eif.Build(contents()))(t); !bytes.Equal(raw, again) {
		t.Error("two builds differ")
	}
	if string(raw[:8]) != ".eif\x00\x04\x00\x00" || binary.BigEndian.Uint16(raw[26:]) != 6 || binary.BigEndian.Uint64(raw[28:]) != 548 {
		t.Errorf("header %x", raw[:40])
	}
	image := ok(eif.Parse(raw))(t)
	want := []eif.SectionType{eif.Kernel, eif.CommandLine, eif.Metadata, eif.Ramdisk, eif.Ramdisk, eif.Ramdisk}
	for n, s := range image.Sections {
		if s.Type != want[n] {
			t.Errorf("section %d is %s, want %s", n, s.Type, want[n])
		}
	}
	if !bytes.Equal(image.Kernel(), bzImage()) || image.CommandLine() != "console=ttyS0 reboot=k" || len(image.Ramdisks()) != 3 ||
		string(image.Ramdisks()[1]) != "application" || image.Architecture != eif.AMD64 || image.Memory != eif.DefaultMemory || image.CPUs != eif.DefaultCPUs {
		t.Errorf("came back as %+v", image)
	}
	// The field order of EifIdentityInfo, all of them there: the format's own reader demands each.
	metadata := `{"ImageName":"raypher","ImageVersion":"v1","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00Z","BuildTool":"raypher",` +
		`"BuildToolVersion":"v1","OperatingSystem":"Linux","KernelVersion":"6.1.0-test"},"DockerInfo":null,"CustomMetadata":null}`
	if got := string(image.Sections[2].Data); got != metadata {
		t.Errorf("metadata %s", got)
	}
}

// TestMetadataIsNotMeasured: what a builder says of an image changes its bytes and no register.
func TestMetadataIsNotMeasured(t *testing.T) {
	other := contents()
	other.Name, other.Time, other.CustomMetadata = "another", time.Unix(1e9, 0), []byte(`{"a":1}`)
	a, b := ok(eif.Build(contents()))(t), ok(eif.Build(other))(t)
	if bytes.Equal(a, b) {
		t.Error("the same bytes")
	}
	if ok(eif.Parse(a))(t).Measurements != ok(eif.Parse(b))(t).Measurements {
		t.Error("other registers")
	}
}

// TestBuildRefuses: parts of which no image can be made.
func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(*eif.Contents)
	}{
		{"a kernel that is none", func(c *eif.Contents) { c.Kernel = []byte("\x7fELF") }},
		{"no command line", func(c *eif.Contents) { c.CommandLine = "" }},
		{"a command line of two lines", func(c *eif.Contents) { c.CommandLine = "a\nb" }},
		{"a command line that is too long", func(c *eif.Contents) { c.CommandLine = string(bytes.Repeat([]byte("a"), eif.MaxCommandLine+1)) }},
		{"no ramdisk", func(c *eif.Contents) { c.Ramdisks = nil }},
		{"an empty ramdisk", func(c *eif.Contents) { c.Ramdisks[1] = nil }},
		{"more sections than the format has", func(c *eif.Contents) { c.Ramdisks = make([][]byte, eif.Unlimited) }},
		{"custom metadata that is no JSON", func(c *eif.Contents) { c.CustomMetadata = []byte("{") }},
		{"an archive where the kernel does not look", func(c *eif.Contents) { c.Ramdisks = [][]byte{[]byte("odd"), []byte("070701")} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts := contents()
			c.alter(&parts)
			if _, err := eif.Build(parts); err == nil {
				t.Error("built")
			}
		})
	}
}

func TestARM64(t *testing.T) {
	parts := contents()
	parts.Kernel = arm64Image()
	raw := ok(eif.Build(parts))(t)
	image := ok(eif.Parse(raw))(t)
	if image.Architecture != eif.ARM64 || raw[7] != 1 || image.Metadata.Build.KernelVersion != "Unknown" {
		t.Errorf("%s, flags %d, kernel %q", image.Architecture, raw[7], image.Metadata.Build.KernelVersion)
	}
	raw[7] = 0
	if _, err := eif.Parse(eif.Reseal(raw)); !errors.Is(err, eif.CheckContents) {
		t.Errorf("the header says another architecture: %v", err)
	}
}

func TestParseKernelConfig(t *testing.T) {
	const config = "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86_64 6.6.38 Kernel Configuration\n#\nCONFIG_A=y\n"
	if v, err := eif.ParseKernelConfig([]byte(config)); err != nil || v != "6.6.38" {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := eif.ParseKernelConfig([]byte("CONFIG_A=y\n")); err == nil {
		t.Errorf("a file without that line: %q", v)
	}
}

// refused fails unless the error is the refusal of that check.
func refused(t *testing.T, raw []byte, want attest.Check) {
	t.Helper()
	_, err := eif.Parse(raw)
	if !errors.Is(err, want) {
		t.Errorf("%v, want a refusal by %q", err, want)
	}
}
