package attestation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/controller/attestation"
	"github.com/raypher/raypher/controller/fleet"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// world is a controller with a fleet of one Nitro host, "rack-1", whose makers are the test's.
type world struct {
	*attestation.Service
	fleet    *fleet.Service
	callers  *host.Callers
	db       *store.DB
	pki      *nitrotest.PKI
	golden   ed25519.PrivateKey
	operator context.Context
	ceiling  []byte // PKIX DER of the operator key that configurations may name
	ahead    atomic.Int64
}

func (w *world) now() time.Time { return w.pki.At.Add(time.Duration(w.ahead.Load())) }

func (w *world) advance(d time.Duration) { w.ahead.Add(int64(d)) }

const goldenText = `version: 1
not_after: "2099-01-01T00:00:00Z"
sets:
  - {name: image, tier: nitro, bank: sha384, pcrs: {PCR0: "%x", PCR1: "%x", PCR2: "%x"}}
  - {name: rack, tier: tpm, bank: sha256, pcrs: {PCR7: "%x"}}
  - {name: parent, tier: nitrotpm, bank: sha384, pcrs: {PCR4: "%x", PCR7: "%x"}}
`

func newWorld(t testing.TB, url string, edit func(*attestation.Options)) *world {
	t.Helper()
	w := &world{db: storetest.Open(t, url), pki: nitrotest.New(t, time.Now().Add(time.Minute).Truncate(time.Second))} // ahead of what the test makes later
	var public ed25519.PublicKey
	public, w.golden, _ = ed25519.GenerateKey(rand.Reader)
	w.ceiling = der(t, &ecdsaKey(t).PublicKey)
	references := &attestation.References{Keys: [][]byte{der(t, public)}}
	o := attestation.Options{
		DB: w.db, Keys: &attestation.Keys{Signing: ecdsaKey(t)}, References: references, NitroRoots: []*x509.Certificate{w.pki.Root()},
		CeilingKeys: [][]byte{w.ceiling}, ControllerKeys: []startconf.KeyHash{callerOf("controller")}, TrustDomain: startconf.DefaultTrustDomain, Issuer: "test", Build: "v0", Now: w.now, Log: slog.New(slog.DiscardHandler),
	}
	if edit != nil {
		edit(&o)
	}
	var err error
	if w.Service, err = attestation.New(o); err != nil {
		t.Fatal(err)
	}
	operator := startconf.KeyHash{9}
	w.operator = peer.With(context.Background(), &peer.Peer{Key: operator})
	w.callers = &host.Callers{Operators: []startconf.KeyHash{operator}, ResultKeys: o.Keys.Public(), Now: w.now}
	w.fleet = fleet.New(fleet.Options{DB: w.db, Callers: w.callers, References: references, AllowSoftware: o.AllowSoftware, Now: w.now})
	w.putGolden(t, fmt.Sprintf(goldenText, nitrotest.PCR("image"), nitrotest.PCR("kernel"), nitrotest.PCR("application"), make([]byte, 32),
		nitrotest.PCR("boot"), nitrotest.PCR("secure boot")))
	w.add(t, "rack-1", journal.TierNitro, callerOf("rack-1"), false)
	return w
}

func (w *world) putGolden(t testing.TB, text string) {
	t.Helper()
	list, err := golden.ParseSource("golden", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	file, err := golden.Sign(list, w.golden)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.fleet.PutMeasurements(w.operator, &controllerv1.PutMeasurementsRequest{List: file}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) add(t testing.TB, name, tier string, caller startconf.KeyHash, reset bool) {
	t.Helper()
	if _, err := w.fleet.AddHost(w.operator, &controllerv1.AddHostRequest{Name: name, Tier: tier, CallerKey: caller.String(), Reset_: reset}); err != nil {
		t.Fatal(err)
	}
}

// controllers is the configuration of rack-1 that names this controller's key of results, and keys of its TLS certificate.
func (w *world) controllers(keys ...startconf.KeyHash) string {
	result, err := x509.MarshalPKIXPublicKey(&w.Keys.Signing.PublicKey)
	if err != nil {
		panic(err) // a P-256 key always encodes
	}
	text := "caller_key = " + callerOf("rack-1").String() + "\ncontroller = controller:7443\ncontroller_result_key = " + base64.StdEncoding.EncodeToString(result) + "\n"
	for _, key := range keys {
		text += "controller_key = " + key.String() + "\n"
	}
	return text
}

func (w *world) host(t testing.TB, name string) *controllerv1.Host {
	t.Helper()
	reply, err := w.fleet.Hosts(w.operator, &controllerv1.HostsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range reply.GetHosts() {
		if h.GetName() == name {
			return h
		}
	}
	return nil
}

func (w *world) audit(t testing.TB) (lines []string) {
	t.Helper()
	reply, err := w.fleet.Audit(w.operator, &controllerv1.AuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range reply.GetEntries() {
		lines = append(lines, strings.Join([]string{e.GetAction(), e.GetSubject(), e.GetOutcome()}, " "))
	}
	return lines
}

// callerOf is the key of a host's parent; nothing here proves it.
func callerOf(name string) (h startconf.KeyHash) {
	copy(h[:], name)
	return h
}

// enclave is one with a key of its own, and a configuration for its host.
type enclave struct {
	key           *journal.Key
	private       *ecdsa.PrivateKey
	epoch         journal.EpochID
	configuration string
	leaf          *nitrotest.Certificate
}

func (w *world) enclave(t testing.TB, name string) *enclave {
	t.Helper()
	private := ecdsaKey(t)
	key, err := journal.NewKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	e := &enclave{key: key, private: private, configuration: "caller_key = " + callerOf(name).String() + "\n", leaf: w.pki.Leaf(t)}
	rand.Read(e.epoch[:])
	return e
}

// ctx is the context of the enclave's calls.
func (e *enclave) ctx() context.Context {
	return peer.With(context.Background(), &peer.Peer{Key: e.key.ID(), Enclave: e.key})
}

func (e *enclave) hash(t testing.TB) journal.Hash {
	t.Helper()
	c, err := startconf.Parse("", []byte(e.configuration))
	if err != nil {
		t.Fatal(err)
	}
	return c.Hash()
}

// draft is the document of a Nitro enclave at the controller's time.
func (w *world) draft(t testing.TB, e *enclave, nonce []byte) *nitrotest.Draft {
	t.Helper()
	d := w.pki.Draft(e.leaf)
	hash := e.hash(t)
	value := nitro.ConfigurationValue(hash)
	d.Set("public_key", e.key.PKIX())
	d.Set("user_data", (&nitro.Binding{Epoch: e.epoch, Configuration: hash}).Encode())
	d.Set("nonce", nonce)
	d.Set("timestamp", uint64(w.now().UnixMilli()))
	d.Get("pcrs").(map[int][]byte)[nitro.ConfigurationPCR] = value[:]
	return d
}

// instance is the document of the NitroTPM of the instance on which every enclave of this package runs.
func (w *world) instance(t testing.TB, nonce []byte) *nitrotest.Draft {
	t.Helper()
	return w.pki.InstanceDraft(w.pki.Leaf(t), nonce, w.now())
}

func (w *world) nonce(t testing.TB, e *enclave) []byte {
	t.Helper()
	reply, err := w.Challenge(e.ctx(), &controllerv1.ChallengeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return reply.GetNonce()
}

// good is a request that is right in every part.
func (w *world) good(t testing.TB, e *enclave, nonce []byte) *controllerv1.AttestRequest {
	t.Helper()
	return &controllerv1.AttestRequest{
		Nonce: nonce, Tier: journal.TierNitro, Document: w.draft(t, e, nonce).Seal(t), Configuration: []byte(e.configuration),
	}
}

func ecdsaKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func der(t testing.TB, public any) []byte {
	t.Helper()
	out, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
