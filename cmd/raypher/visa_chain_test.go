package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goldens "github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	attesttpm "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/tpm"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
)

// tpmHost is a host with a TPM, after its enclave has granted a visa: what it wrote, and what a relying party was told.
type tpmHost struct {
	dir, visa, exported, fetched string
	epoch                        journal.EpochID
	nonce                        []byte
	akName                       string // in hexadecimal
}

var chainNonce = []byte("a nonce of the relying party")

// newTPMHost runs the real enclave process on a TPM and has it grant a visa.
func newTPMHost(t *testing.T, ca *tpmtest.CA) *tpmHost {
	t.Helper()
	h := &tpmHost{nonce: chainNonce}
	var err error
	if h.dir, err = os.MkdirTemp("", "raypher-chain-"); err != nil { // others can pass through it: the enclave is another user
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	if err := os.Chmod(h.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(h.dir, "raypher-enclave")
	build := exec.Command("go", "build", "-o", binary, "github.com/raypher/raypher/cmd/raypher-enclave")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build raypher-enclave: %v\n%s", err, out)
	}
	store := must1(audit.Open(filepath.Join(h.dir, "journal")))(t)
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	local, err := link.StartLocal(ctx, link.LocalOptions{
		Development: true,
		Binary:      binary, Socket: filepath.Join(h.dir, "run", "enclave.sock"), State: filepath.Join(h.dir, "state"), Keys: filepath.Join(h.dir, "keys"),
		TPMDevice: tpmtest.Start(t, ca.Make(t)).Socket, Store: store, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	reply, err := local.Mint(ctx, mintRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	h.visa = h.file(t, "visa", reply.GetVisa())
	h.epoch = store.Epochs()[0]
	h.exported = h.file(t, "exported", must1(must1(store.Export(h.epoch, 0))(t).Encode())(t))
	attested, err := local.Attest(ctx, chainNonce)
	if err != nil {
		t.Fatal(err)
	}
	h.fetched = h.file(t, "fetched", attested.GetDocument())
	h.akName = hex.EncodeToString(must1(attesttpm.Claimed(attested.GetDocument()))(t).AKName)
	return h
}

func (h *tpmHost) file(t *testing.T, name string, content []byte) string {
	t.Helper()
	name = filepath.Join(h.dir, name)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func mintRequest(t *testing.T) *enclavev1.MintRequest {
	t.Helper()
	p := must1(policy.Parse("p", []byte("namespace: dev\nfilesystem: {read: [\"/usr/**\"]}\n")))(t)
	key := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	hash := p.Hash()
	return &enclavev1.MintRequest{
		Policy: p.Canonical(), Namespace: "dev", Name: "agent", ConfirmationKey: must1(visa.ConfirmationKey(&key.PublicKey))(t), PolicySourceHash: hash[:],
		Asserted: &enclavev1.Asserted{AgentId: "a-1", Uid: 1000, User: "a", Home: "/home/a", Pid: 42, Backend: "broker", Host: "h"},
	}
}

// softwareAsTPM is an enclave without a TPM that signs heads of tier tpm: its visa, its own evidence, and that of somebody else.
func softwareAsTPM(t *testing.T) (granted []byte, own *evidence.Bundle) {
	t.Helper()
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	log.Now, log.Tier = time.Now().Truncate(time.Second), journal.TierTPM
	b := log.Append(log.Visa(log.Claims("a1")))
	return b.Granted(t, 1), &evidence.Bundle{Entry: b.Entries[0], Receipt: *b.Receipt(0), KeyEvidence: *log.KeyEvidence()}
}

// The whole chain, offline: visa, receipt, signed head, key, TPM, vendor, golden set; and each link broken by itself.
func TestVisaChainTPM(t *testing.T) {
	ca := tpmtest.NewCA(t)
	h := newTPMHost(t, ca)
	key, public := operatorKey(t, h.dir, "golden")
	golden := func(name string, edit func(string) string) string {
		t.Helper()
		source := filepath.Join(h.dir, name+".yaml")
		if out, err := attestRun("golden", "add", source, "--name", "rack", "--from", h.fetched, "--root", ca.Roots, "--activated", h.akName, "--nonce", hex.EncodeToString(h.nonce)); err != nil {
			t.Fatal(out, err)
		}
		text := edit(string(must1(os.ReadFile(source))(t)))
		if _, err := attestRun("golden", "sign", h.file(t, name+".yaml", []byte(text)), "--key", key); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(h.dir, name+".golden")
	}
	good := golden("good", func(s string) string { return s })
	zero := strings.Repeat("00", 32)
	other := golden("other", func(s string) string { return strings.Replace(s, `PCR7: "`+zero, `PCR7: "01`+zero[2:], 1) })
	yesterday := time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339)
	expired := golden("expired", func(s string) string {
		return strings.Replace(s, "    pcrs:", "    not_before: \"2020-01-01T00:00:00Z\"\n    not_after: \""+yesterday+"\"\n    pcrs:", 1)
	})

	second := tpmtest.Start(t, ca.Make(t)) // another TPM of the same vendor, honestly activated, and its evidence for the same epoch
	k, _, err := tpm.Open(t.Context(), tpm.Options{TPM: must1(tpm.OpenDevice(second.Socket))(t), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	claimed := must1(attesttpm.Claimed(must1(os.ReadFile(h.fetched))(t)))(t)
	foreign := must1(k.Evidence(t.Context(), chainNonce, signer.Binding{Epoch: claimed.Epoch, Configuration: claimed.Configuration}))(t)
	foreignFile := h.file(t, "foreign", foreign.Document)
	foreignAK := hex.EncodeToString(must1(attesttpm.Claimed(foreign.Document))(t).AKName)
	strangers := tpmtest.NewCA(t)
	strangers.Make(t)

	lie, own := softwareAsTPM(t)
	lieFile, ownFile := h.file(t, "lie", lie), h.file(t, "own", must1(own.Encode())(t))
	relabelled := *own
	relabelled.KeyEvidence.Tier = journal.TierTPM
	relabelledFile := h.file(t, "relabelled", must1(relabelled.Encode())(t))
	bent := must1(os.ReadFile(h.visa))(t)
	_, receipt, _, err := visa.Split(bent)
	if err != nil {
		t.Fatal(err)
	}
	entry, _, _, _ := visa.Split(bent)
	entry[len(entry)/2] ^= 1
	bentFile := h.file(t, "bent", must1(visa.Encode(entry, receipt))(t))
	enclavePEM := h.file(t, "enclave.pem", []byte(mustCall(t, evidenceCommand(), "key", "--state-dir", h.dir)))

	nonce := hex.EncodeToString(h.nonce)
	trust := []string{"--root", ca.Roots, "--activated", h.akName, "--golden", good, "--golden-key", public, "--json"}
	with := func(args ...string) []string { return append(slices.Clone(trust), args...) }
	for _, c := range []struct {
		name string
		args []string
		want error // nil: it holds
		word string
	}{
		{"evidence of entry 0, exported", with("--evidence", h.exported, h.visa), nil, "as exported"},
		{"evidence fetched for a nonce", with("--evidence", h.fetched, "--evidence-nonce", nonce, h.visa), nil, "fetched for the nonce"},
		{"evidence of this host's journal", with("--state-dir", h.dir, h.visa), nil, "this host's journal"},
		{"the key pinned too", with("--evidence", h.exported, "--enclave-key", enclavePEM, h.visa), nil, "as exported"},
		{"without evidence, by leave", []string{"--enclave-key", enclavePEM, "--allow-unproven-tier", "--json", h.visa}, nil, "given"},

		{"without evidence", []string{"--enclave-key", enclavePEM, h.visa}, visa.ErrTier, "nothing but its key says so"},
		{"without evidence, the key of this host", []string{"--state-dir", h.dir, h.visa}, visa.ErrTier, "nothing but its key says so"},
		{"foreign head key", with("--evidence", h.exported, lieFile), evidence.ErrHead, ""},
		{"evidence of another TPM", with("--activated", foreignAK, "--evidence", foreignFile, "--evidence-nonce", nonce, h.visa), evidence.ErrHead, ""},
		{"evidence of a TPM that nobody has activated", with("--evidence", foreignFile, "--evidence-nonce", nonce, h.visa), attesttpm.CheckActivation, ""},
		{"roots of another vendor", with("--root", strangers.Roots, "--evidence", h.exported, h.visa), attesttpm.CheckEndorsement, ""},
		{"PCRs that are not golden", with("--golden", other, "--evidence", h.exported, h.visa), goldens.CheckValues, "PCR 7 is "},
		{"a golden set that has expired", with("--golden", expired, "--evidence", h.exported, h.visa), goldens.CheckValidity, yesterday},
		{"golden values that nobody trusted has signed", []string{"--root", ca.Roots, "--activated", h.akName, "--golden", good, "--golden-key", enclavePEM, "--evidence", h.exported, h.visa}, goldens.CheckSignature, ""},
		{"a tampered entry", with("--evidence", h.exported, bentFile), visa.ErrProof, ""},
		{"a software key that claims tpm", with("--evidence", ownFile, lieFile), evidence.ErrTier, "software"},
		{"a software key that claims tpm, allowed as software", with("--allow-software", "--evidence", ownFile, lieFile), evidence.ErrHead, "tier software"},
		{"a software key's statement labelled tpm", with("--allow-software", "--evidence", relabelledFile, lieFile), attesttpm.CheckFormat, ""},
		{"another nonce", with("--evidence", h.fetched, "--evidence-nonce", "00112233445566778899", h.visa), attesttpm.CheckNonce, ""},
		{"after the visa's end", with("--evidence", h.exported, "--at", time.Now().Add(24*time.Hour).Format(time.RFC3339), h.visa), visa.ErrExpired, ""},
		{"another key pinned", with("--evidence", h.exported, "--enclave-key", public, h.visa), nil, "error"},
		{"fetched, and no nonce", with("--evidence", h.fetched, h.visa), nil, "error"},
		{"of a journal, and a nonce", with("--evidence", h.exported, "--evidence-nonce", nonce, h.visa), nil, "error"},
		{"no evidence here", with("--state-dir", t.TempDir(), h.visa), nil, "error"},
		{"no roots", []string{"--evidence", h.exported, h.visa}, nil, "error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("RAYPHER_RUN_DIR", t.TempDir()) // no daemon
			out, err := call(t, visaCommand(), append([]string{"verify"}, c.args...)...)
			if c.want == nil && c.word != "error" {
				var v struct {
					Tier   string `json:"tier"`
					Source string `json:"enclave_key_source"`
					Golden string `json:"golden_set"`
				}
				if err != nil || json.Unmarshal([]byte(out), &v) != nil || v.Tier != "tpm" || !strings.Contains(v.Source, c.word) || (v.Golden == "rack") != (v.Source != "given") {
					t.Errorf("%s, %v", out, err)
				}
				return
			}
			if err == nil || out != "" || strings.Contains(err.Error(), "\n") || c.want != nil && (!errors.Is(err, c.want) || !strings.Contains(err.Error(), c.word)) {
				t.Errorf("%q, %v: want %v with %q", out, err, c.want, c.word)
			}
		})
	}
	if out, err := call(t, visaCommand(), "verify", "--root", ca.Roots, "--activated", h.akName, "--evidence", h.exported, h.visa); err != nil || !strings.Contains(out, "golden set      not compared") {
		t.Errorf("without golden measurements: %q, %v", out, err)
	}
	t.Run("a tampered log", func(t *testing.T) {
		files := must1(filepath.Glob(filepath.Join(h.dir, "journal", "*.journal")))(t)
		text := must1(os.ReadFile(files[0]))(t)
		text[len(text)/3] ^= 1
		if err := os.WriteFile(files[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := call(t, visaCommand(), append([]string{"verify"}, with("--state-dir", h.dir, h.visa)...)...); err == nil || out != "" || !strings.Contains(err.Error(), "altered") {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// The same for an enclave's document, which vouches for a key by its public key and user data.
func TestVisaChainNitro(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	log.Now, log.Tier = time.Now().Truncate(time.Second), journal.TierNitro
	granted := log.Append(log.Visa(log.Claims("a1"))).Granted(t, 1)
	pki := nitrotest.New(t, time.Now().Add(-time.Minute))
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	seal := func(key *journal.Key, b nitro.Binding) []byte {
		draft := pki.Draft(pki.Leaf(t))
		draft.Set("timestamp", log.Now.UnixMilli())
		draft.Set("nonce", chainNonce)
		draft.Set("public_key", key.PKIX())
		draft.Set("user_data", b.Encode())
		value := nitro.ConfigurationValue(b.Configuration)
		draft.Get("pcrs").(map[int][]byte)[nitro.ConfigurationPCR] = value[:]
		return draft.Seal(t)
	}
	right := nitro.Binding{Epoch: log.Epoch, Configuration: log.Config}
	visaFile, root := file("visa", granted), file("root.pem", pki.RootPEM())
	document := file("doc", seal(log.Key, right))
	exported := evidence.Bundle{Entry: log.Start, Receipt: *log.Last.Receipt(0), KeyEvidence: journal.KeyEvidence{Tier: journal.TierNitro, Document: seal(log.Key, right)}}
	exportedFile := file("exported", must1(exported.Encode())(t))
	key, public := operatorKey(t, dir, "golden")
	if _, err := attestRun("golden", "add", filepath.Join(dir, "g.yaml"), "--name", "release 1", "--from", document, "--root", root); err != nil {
		t.Fatal(err)
	}
	if _, err := attestRun("golden", "sign", filepath.Join(dir, "g.yaml"), "--key", key); err != nil {
		t.Fatal(err)
	}
	base := []string{"verify", "--json", "--root", root, "--golden", filepath.Join(dir, "g.golden"), "--golden-key", public, "--evidence-nonce", hex.EncodeToString(chainNonce)}
	with := func(args ...string) []string { return append(slices.Clone(base), args...) }
	stranger := journaltest.NewKey(t)
	for _, c := range []struct {
		name string
		args []string
		want error
	}{
		{"the whole chain", with("--evidence", document, visaFile), nil},
		{"of a journal, at its own time", append(slices.Clone(base[:8]), "--evidence", exportedFile, visaFile), nil},
		{"another key", with("--evidence", file("key", seal(must1(journal.NewKey(stranger.Public()))(t), right)), visaFile), evidence.ErrHead},
		{"another epoch", with("--evidence", file("epoch", seal(log.Key, nitro.Binding{Configuration: log.Config})), visaFile), evidence.ErrHead},
		{"another configuration", with("--evidence", file("conf", seal(log.Key, nitro.Binding{Epoch: log.Epoch})), visaFile), evidence.ErrHead},
		{"no binding", with("--evidence", file("none", pki.Draft(pki.Leaf(t)).Seal(t)), "--evidence-nonce", hex.EncodeToString([]byte("nonce")), visaFile), nitro.CheckKey},
		{"another nonce", with("--evidence", document, "--evidence-nonce", "00", visaFile), nitro.CheckNonce},
		{"the AWS root", append([]string{"verify", "--evidence", document}, append(slices.Clone(base[4:]), visaFile)...), nitro.CheckRoot},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := call(t, visaCommand(), c.args...)
			if c.want == nil && (err != nil || !strings.Contains(out, `"golden_set": "release 1"`)) || c.want != nil && (!errors.Is(err, c.want) || out != "") {
				t.Errorf("%q, %v, want %v", out, err, c.want)
			}
		})
	}
	if out, err := call(t, visaCommand(), "verify", "--root", root, "--evidence", document, "--evidence-nonce", hex.EncodeToString(chainNonce), visaFile); err == nil || out != "" || !strings.Contains(err.Error(), "any enclave would do") {
		t.Errorf("nothing to compare with: %q, %v", out, err)
	}
	for _, c := range []struct {
		args []string
		want error
	}{
		{[]string{"--golden", filepath.Join(dir, "g.golden"), "--golden-key", public, "--root", root}, nil},
		{[]string{"--golden", filepath.Join(dir, "g.golden"), "--golden-key", public}, nitro.CheckRoot},
	} {
		if out, err := call(t, evidenceCommand(), append([]string{"verify", exportedFile}, c.args...)...); !errors.Is(err, c.want) || (err == nil) != (out != "") {
			t.Errorf("evidence verify: %q, %v, want %v", out, err, c.want)
		}
	}
}
