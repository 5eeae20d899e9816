package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/startconf"
)

// runEIF runs `raypher eif`; out is its standard output.
func runEIF(args ...string) (out string, err error) {
	c := eifCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var text bytes.Buffer
	c.SetOut(&text)
	c.SetArgs(args)
	err = c.Execute()
	return text.String(), err
}

// eifInputs writes a kernel, a program and a module, as far as the builder looks at them, into a folder.
func eifInputs(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	kernel := make([]byte, 1024)
	copy(kernel[0x1fe:], "\x55\xaa\x00\x00HdrS")
	object := func(kind elf.Type) []byte {
		var out bytes.Buffer
		ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
		binary.Write(&out, binary.LittleEndian, elf.Header64{Ident: ident, Type: uint16(kind), Version: 1, Ehsize: 64, Shentsize: 64})
		return out.Bytes()
	}
	for name, content := range map[string][]byte{
		"kernel": kernel, "program": object(elf.ET_EXEC), "nsm.ko": object(elf.ET_REL), "ramdisk": []byte("ramdisk"),
		"config": []byte("# Linux/x86 6.6.38 Kernel Configuration\n"), "own.json": []byte(`{"commit":"1234"}`),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// measuredWithConfiguration holds that --configuration adds the PCR16 that the enclave will have, and changes nothing else.
func measuredWithConfiguration(t *testing.T, folder, image string) {
	t.Helper()
	file := filepath.Join(folder, "ibev.conf")
	text := []byte("caller_key = sha256:" + strings.Repeat("0a", 32) + "\n")
	configuration, err := startconf.Parse("ibev.conf", text)
	if err = errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	out, err := runEIF("measure", image, "--configuration", file, "--json")
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := nitro.ParseMeasurements([]byte(out))
	if err != nil || len(pcrs) != 4 || pcrs[16] != nitro.ConfigurationValue(configuration.Hash()) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = runEIF("measure", image, "--configuration", file); err != nil || !strings.Contains(out, fmt.Sprintf("PCR16  %x\n", pcrs[16])) || !strings.Contains(out, fmt.Sprintf("PCR0  %x\n", pcrs[0])) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := runEIF("measure", image, "--configuration", filepath.Join(folder, "none")); err == nil {
		t.Error("no configuration is measured")
	}
}

// TestEIF: two builds in two folders are equal; what build prints is what measure prints; signing adds PCR8 and nothing else.
func TestEIF(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	var images [][]byte
	var printed []string
	var folder string
	for range 2 {
		folder = eifInputs(t)
		in := func(name string) string { return filepath.Join(folder, name) }
		out, err := runEIF("build", "--kernel", in("kernel"), "--kernel-config", in("config"), "--enclave-binary", in("program"), "--module", in("nsm.ko"),
			"--metadata", in("own.json"), "--out", in("image"), "--", "--signer", "nitro")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(in("image"))
		if err != nil {
			t.Fatal(err)
		}
		images, printed = append(images, raw), append(printed, out)
	}
	if !bytes.Equal(images[0], images[1]) || printed[0] != printed[1] {
		t.Error("two builds in two folders differ")
	}
	image := filepath.Join(folder, "image")
	measured, err := runEIF("measure", image, "--json")
	if err != nil || measured != printed[0] {
		t.Errorf("%v: measured %s, built %s", err, measured, printed[0])
	}
	if !regexp.MustCompile(`^\{\s+"PCR0": "[0-9a-f]{96}",\s+"PCR1": "[0-9a-f]{96}",\s+"PCR2": "[0-9a-f]{96}"\s+\}\n$`).MatchString(measured) {
		t.Errorf("measure --json printed %s", measured)
	}
	measuredWithConfiguration(t, folder, image)
	described, err := runEIF("describe", image)
	for _, want := range []string{"ramdisk", "Linux 6.6.38", "2023-11-14T22:13:20Z", "signed by     nobody", "PCR2  "} {
		if err != nil || !strings.Contains(described, want) {
			t.Errorf("%v: describe does not say %q:\n%s", err, want, described)
		}
	}

	key, certificate := eifSigner(t, folder, time.Now().Add(time.Hour))
	signed := filepath.Join(folder, "signed")
	out, err := runEIF("sign", image, "--private-key", key, "--signing-certificate", certificate, "--out", signed)
	var before, after map[string]string
	if err != nil || json.Unmarshal([]byte(measured), &before) != nil || json.Unmarshal([]byte(out), &after) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(after) != 4 || len(after["PCR8"]) != 96 || after["PCR0"] != before["PCR0"] || after["PCR1"] != before["PCR1"] || after["PCR2"] != before["PCR2"] {
		t.Errorf("signed %v, not signed %v", after, before)
	}
	var view imageView
	out, err = runEIF("describe", "--json", signed)
	if err != nil || json.Unmarshal([]byte(out), &struct {
		*imageView
		Measurements map[string]string
	}{imageView: &view}) != nil || view.Signature == nil || view.Signature.Subject != "CN=signer" || len(view.Sections) != 6 || string(view.Metadata.CustomMetadata) == "null" {
		t.Errorf("%v: %s", err, out)
	}
}

// eifSigner writes a key on P-384 and its certificate, valid until a time.
func eifSigner(t *testing.T, folder string, until time.Time) (keyFile, certificateFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signer"}, NotBefore: until.Add(-2 * time.Hour), NotAfter: until}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, certificateFile = filepath.Join(folder, "key.pem"), filepath.Join(folder, "certificate.pem")
	for name, block := range map[string]*pem.Block{keyFile: {Type: "EC PRIVATE KEY", Bytes: private}, certificateFile: {Type: "CERTIFICATE", Bytes: certificate}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return keyFile, certificateFile
}

func TestEIFRefuses(t *testing.T) {
	folder := eifInputs(t)
	in := func(name string) string { return filepath.Join(folder, name) }
	out := in("out")
	good := []string{"build", "--kernel", in("kernel"), "--out", out}
	with := func(more ...string) []string { return append(slices.Clone(good), more...) }
	image := in("image")
	if _, err := runEIF("build", "--kernel", in("kernel"), "--ramdisk", in("ramdisk"), "--out", image); err != nil {
		t.Fatal(err)
	}
	oldKey, oldCertificate := eifSigner(t, folder, time.Now().Add(-time.Minute))
	for _, c := range []struct {
		name  string
		epoch string
		args  []string
		want  string
	}{
		{"no ramdisks", "", good, "--enclave-binary"},
		{"ramdisks twice", "", with("--enclave-binary", in("program"), "--ramdisk", in("ramdisk")), "either"},
		{"modules for a ready-made ramdisk", "", with("--module", in("nsm.ko"), "--ramdisk", in("ramdisk")), "--module"},
		{"arguments without --", "", with("--enclave-binary", in("program"), "more"), "stands after --"},
		{"arguments on both sides of --", "", with("--enclave-binary", in("program"), "more", "--", "--signer"), "stands after --"},
		{"a module that is none", "", with("--enclave-binary", in("program"), "--module", in("kernel")), "not a kernel module"},
		{"a program that is none", "", with("--enclave-binary", in("kernel")), "not a program"},
		{"a configuration that is none", "", with("--enclave-binary", in("program"), "--kernel-config", in("kernel")), "--kernel-config"},
		{"a time that is none", "yesterday", with("--enclave-binary", in("program")), "SOURCE_DATE_EPOCH"},
		{"an image that is none", "", []string{"measure", in("kernel")}, "header"},
		{"an image that is missing", "", []string{"describe", in("nothing")}, "no such file"},
		{"an expired certificate", "", []string{"sign", image, "--private-key", oldKey, "--signing-certificate", oldCertificate, "--out", out}, "not now"},
		{"a key that is none", "", []string{"sign", image, "--private-key", in("config"), "--signing-certificate", oldCertificate, "--out", out}, "no key in PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("SOURCE_DATE_EPOCH", c.epoch)
			if _, err := runEIF(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("wrote an image")
			}
		})
	}
}
