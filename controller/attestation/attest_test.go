package attestation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha512"
	"encoding/base64"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/controller/attestation"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// Good evidence gives a result that says what was found, binds the host, and lets its enclave be known.
func TestAttest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, nil)
		e := w.enclave(t, "rack-1")
		e.configuration += "operator_key = " + base64.StdEncoding.EncodeToString(w.ceiling) + "\n"
		nonce := w.nonce(t, e)
		request := w.good(t, e, nonce)
		request.CeilingVersion, request.CeilingHash = 7, strings.Repeat("ab", 32)
		reply, err := w.Attest(e.ctx(), request)
		if err != nil {
			t.Fatal(err)
		}
		r, err := result.Verify(reply.GetResult(), w.Keys.Public(), w.now())
		if err != nil {
			t.Fatal(err)
		}
		if r.Key.ID() != e.key.ID() || r.Host != "rack-1" || r.Tier != journal.TierNitro || r.Epoch != e.epoch || r.Configuration != e.hash(t) ||
			r.Measurements != "image" || r.GoldenVersion != 1 || r.CeilingVersion != 7 || string(r.Nonce) != string(nonce) {
			t.Errorf("%+v", r)
		}
		if got := r.Expires.Unix(); got != reply.GetExpiresUnix() || r.Expires.Sub(r.Issued) != attestation.DefaultLifetime {
			t.Errorf("expires %s", r.Expires)
		}
		parent := peer.With(t.Context(), &peer.Peer{Key: callerOf("rack-1")})
		if _, err := w.fleet.Report(parent, &controllerv1.ReportRequest{CeilingVersion: 9}); err != nil { // what the enclave said of itself stays
			t.Fatal(err)
		}
		h := w.host(t, "rack-1")
		if h.GetVerdict() != host.Affirming || h.GetEnclaveKey() != startconf.KeyHash(e.key.ID()).String() || h.GetIdentity() == "" || h.GetCeilingVersion() != 7 {
			t.Errorf("%v", h)
		}
		if lines := w.audit(t); lines[len(lines)-1] != "attest.bind rack-1 ok" {
			t.Errorf("%q", lines)
		}
	})
}

// A configuration may name this controller, with the keys that it has and those that it is told of, for before and after a change.
func TestConfigurationNamesThisController(t *testing.T) {
	w := newWorld(t, t.TempDir()+"/db", func(o *attestation.Options) {
		o.Keys.Former = []*ecdsa.PublicKey{&ecdsaKey(t).PublicKey}
		o.ControllerKeys = append(o.ControllerKeys, callerOf("next"))
	})
	e := w.enclave(t, "rack-1")
	e.configuration = w.controllers(callerOf("controller"), callerOf("next")) + "controller_result_key = " + base64.StdEncoding.EncodeToString(der(t, w.Keys.Former[0])) + "\n"
	if _, err := w.Attest(e.ctx(), w.good(t, e, w.nonce(t, e))); err != nil {
		t.Error(err)
	}
}

// With a list of configurations each other one is refused, by the keys that differ; the caller key is the host's own.
func TestListedConfigurations(t *testing.T) {
	const listed = "ttl_seconds = 60\nvisas_per_second = 100\npredecessor = sha256:" + "0000000000000000000000000000000000000000000000000000000000000001" + "\n"
	parse := func(text string) *startconf.Configuration {
		c, err := startconf.Parse("listed", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	w := newWorld(t, t.TempDir()+"/db", func(o *attestation.Options) {
		o.Configurations = []*startconf.Configuration{parse("caller_key = " + callerOf("rack-9").String() + "\n" + listed), parse("ttl_seconds = 90\n")}
	})
	mine := "caller_key = " + callerOf("rack-1").String() + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"the first", listed, ""},
		{"the second", "ttl_seconds = 90\n", ""},
		{"the second, with a default in words", "ttl_seconds = 90\nvisas_per_second = 50000\n", ""},
		{"visas of another life", strings.Replace(listed, "60", "3600", 1), "ttl_seconds differ"},
		{"another rate", strings.Replace(listed, "= 100", "= 1000", 1), "visas_per_second differ"},
		{"another predecessor", strings.Replace(listed, "01\n", "02\n", 1), "predecessor differ"},
		{"one more", listed + "predecessor = sha256:" + strings.Repeat("ab", 32) + "\n", "predecessor differ"},
		{"a secret of KMS", listed + "kms_secret = llm arn:aws:kms:eu-central-1:111122223333:key/0 AAAA\n", "kms_secret differ"},
		{"none of them", "", "ttl_seconds differ"},
	} {
		e := w.enclave(t, "rack-1")
		e.configuration = mine + c.text
		_, err := w.Attest(e.ctx(), w.good(t, e, w.nonce(t, e)))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		refusedBy(t, c.name, "configuration", err)
		if !strings.Contains(err.Error(), ": "+c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// One table of everything that can be wrong with Nitro evidence. Each refusal names its check, gives no result, uses the nonce up, and leaves the
// host's enclave as it was.
func TestRefusals(t *testing.T) {
	type attempt struct {
		*world
		e       *enclave
		nonce   []byte
		request *controllerv1.AttestRequest
		ctx     context.Context
	}
	// document makes the attempt's document anew.
	document := func(edit func(*nitrotest.Draft)) func(*testing.T, *attempt) {
		return func(t *testing.T, a *attempt) {
			d := a.draft(t, a.e, a.nonce)
			edit(d)
			a.request.Document = d.Seal(t)
		}
	}
	// configured makes everything anew for another configuration.
	configured := func(text string) func(*testing.T, *attempt) {
		return func(t *testing.T, a *attempt) {
			a.e.configuration = text
			a.request = a.good(t, a.e, a.nonce)
		}
	}
	mine := "caller_key = " + callerOf("rack-1").String() + "\n"
	cases := []struct {
		name  string
		edit  func(*testing.T, *attempt)
		check string
	}{
		{"a nonce that nobody gave", func(t *testing.T, a *attempt) {
			a.nonce = []byte(strings.Repeat("x", 32))
			a.request = a.good(t, a.e, a.nonce)
		}, "nonce"},
		{"no nonce", func(t *testing.T, a *attempt) {
			a.nonce = nil
			a.request = a.good(t, a.e, a.nonce)
		}, "nonce"},
		{"a stale nonce", func(t *testing.T, a *attempt) { a.advance(attestation.NonceLifetime) }, "nonce"},
		{"the nonce of another caller", func(t *testing.T, a *attempt) {
			a.nonce = a.world.nonce(t, a.enclave(t, "rack-1"))
			a.request = a.good(t, a.e, a.nonce)
		}, "nonce"},
		{"a document over another nonce", document(func(d *nitrotest.Draft) { d.Set("nonce", []byte("0123456789abcdef")) }), "nonce"},
		{"a document over none", document(func(d *nitrotest.Draft) { d.Set("nonce", nil) }), "nonce"},
		{"an old document", document(func(d *nitrotest.Draft) { d.Set("timestamp", d.Get("timestamp").(uint64)-6*60*1000) }), "freshness"},
		{"a document from the future", document(func(d *nitrotest.Draft) { d.Set("timestamp", d.Get("timestamp").(uint64)+60*1000) }), "freshness"},
		{"a foreign root", func(t *testing.T, a *attempt) {
			other := nitrotest.New(t, a.pki.At)
			d := a.draft(t, a.e, a.nonce)
			leaf := other.Leaf(t)
			foreign := other.Draft(leaf)
			d.Set("cabundle", foreign.Get("cabundle"))
			d.Set("certificate", leaf.Raw)
			d.Key = leaf.Key
			a.request.Document = d.Seal(t)
		}, "root"},
		{"other measurements", document(func(d *nitrotest.Draft) { d.Get("pcrs").(map[int][]byte)[0] = nitrotest.PCR("other image") }), "golden"},
		{"debug mode", document(func(d *nitrotest.Draft) {
			for i := range 3 {
				d.Get("pcrs").(map[int][]byte)[i] = make([]byte, sha512.Size384)
			}
		}), "debug"},
		{"another instance's registers", document(func(d *nitrotest.Draft) { d.Get("pcrs").(map[int][]byte)[4] = nitrotest.PCR("i-1") }), "instance"},
		{"a changed document", func(t *testing.T, a *attempt) { a.request.Document[len(a.request.Document)-1] ^= 1 }, "signature"},
		{"nothing", func(t *testing.T, a *attempt) { a.request.Document = nil }, "encoding"},
		{"a document about another key", document(func(d *nitrotest.Draft) {
			key, err := journal.NewKey(&ecdsaKey(t).PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			d.Set("public_key", key.PKIX())
		}), "caller"},
		{"somebody else's evidence, relayed", func(t *testing.T, a *attempt) {
			victim := a.enclave(t, "rack-1")
			a.request = a.good(t, victim, a.nonce) // the victim answers any nonce
		}, "caller"},
		{"another configuration than the evidence's", func(t *testing.T, a *attempt) { a.request.Configuration = []byte(mine + "ttl_seconds = 60\n") }, "configuration"},
		{"no configuration that can be read", func(t *testing.T, a *attempt) { a.request.Configuration = []byte("x") }, "configuration"},
		{"two callers", configured(mine + "caller_key = " + callerOf("mallory").String() + "\n"), "configuration"},
		{"no caller", configured("ttl_seconds = 60\n"), "configuration"},
		{"another trust domain", configured(mine + "trust_domain = evil.example\n"), "configuration"},
		{"ceilings by a stranger", configured(mine + "operator_key = " + base64.StdEncoding.EncodeToString(der(t, &ecdsaKey(t).PublicKey)) + "\n"), "configuration"},
		{"another controller beside this one", func(t *testing.T, a *attempt) {
			configured(a.controllers(callerOf("controller"), callerOf("mallory")))(t, a)
		}, "configuration"},
		{"results by a stranger", func(t *testing.T, a *attempt) {
			configured(a.controllers(callerOf("controller"))+"controller_result_key = "+base64.StdEncoding.EncodeToString(der(t, &ecdsaKey(t).PublicKey))+"\n")(t, a)
		}, "configuration"},
		{"a root of its own", configured(mine + "nitro_root = " + callerOf("root").String() + "\n"), "configuration"},
		{"a host that nobody named", configured("caller_key = " + callerOf("mallory").String() + "\n"), "host"},
		{"a host that was removed", func(t *testing.T, a *attempt) {
			if _, err := a.fleet.RemoveHost(a.operator, &controllerv1.RemoveHostRequest{Name: "rack-1"}); err != nil {
				t.Fatal(err)
			}
		}, "host"},
		{"evidence of another tier than the host's", func(t *testing.T, a *attempt) {
			a.add(t, "rack-1", journal.TierTPM, callerOf("rack-1"), true)
		}, "tier"},
		{"software", func(t *testing.T, a *attempt) { a.request.Tier = journal.TierSoftware }, "tier"},
		{"a tier that is none", func(t *testing.T, a *attempt) { a.request.Tier = "sgx" }, "tier"},
		{"a document of another tier", func(t *testing.T, a *attempt) { a.request.Tier = journal.TierTPM }, "endorsement"},
	}
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, nil)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				w.ahead.Store(0)
				w.add(t, "rack-1", journal.TierNitro, callerOf("rack-1"), w.host(t, "rack-1") != nil)
				before := w.enclave(t, "rack-1")
				if _, err := w.Attest(before.ctx(), w.good(t, before, w.nonce(t, before))); err != nil {
					t.Fatal(err)
				}
				a := &attempt{world: w, e: w.enclave(t, "rack-1")}
				a.ctx, a.nonce = a.e.ctx(), w.nonce(t, a.e)
				a.request = w.good(t, a.e, a.nonce)
				c.edit(t, a)
				reply, err := w.Attest(a.ctx, a.request)
				if status.Code(err) != codes.PermissionDenied || !strings.HasPrefix(status.Convert(err).Message(), c.check+": ") || reply != nil {
					t.Fatalf("%v, %v; want %q", reply, err, c.check)
				}
				// The same nonce, now with evidence that is right, comes too late.
				a.e.configuration = mine
				if _, err := w.Attest(a.ctx, w.good(t, a.e, a.nonce)); status.Code(err) != codes.PermissionDenied {
					t.Errorf("the nonce serves on: %v", err)
				}
				if h := w.host(t, "rack-1"); h != nil && h.GetEnclaveKey() != "" && h.GetEnclaveKey() != startconf.KeyHash(before.key.ID()).String() {
					t.Errorf("the host's enclave is another one: %v", h)
				}
			})
		}
	})
}

// Of many who send the same evidence at once to two replicas one gets a result.
func TestReplay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, nil)
		second, err := attestation.New(attestation.Options{
			DB: storetest.Open(t, url), Keys: w.Keys, References: &attestation.References{Keys: w.References.Keys}, NitroRoots: w.NitroRoots,
			CeilingKeys: w.CeilingKeys, TrustDomain: w.TrustDomain, Now: w.now, Log: w.Log,
		})
		if err != nil {
			t.Fatal(err)
		}
		e := w.enclave(t, "rack-1")
		request := w.good(t, e, w.nonce(t, e))
		var good atomic.Int32
		var all sync.WaitGroup
		for i := range 12 {
			service := []*attestation.Service{w.Service, second}[i%2]
			all.Go(func() {
				if _, err := service.Attest(e.ctx(), request); err == nil {
					good.Add(1)
				} else if status.Code(err) != codes.PermissionDenied {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if good.Load() != 1 {
			t.Errorf("%d results", good.Load())
		}
	})
}

// Who is no enclave, or nobody, gets no challenge; and who asks for many without an answer gets no more.
func TestChallengeBounds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, nil)
		if _, err := w.Challenge(context.Background(), nil); status.Code(err) != codes.Unauthenticated {
			t.Error(err)
		}
		if _, err := w.Challenge(peer.With(context.Background(), &peer.Peer{}), nil); status.Code(err) != codes.PermissionDenied {
			t.Error(err)
		}
		e := w.enclave(t, "rack-1")
		for range attestation.MaxNonces {
			w.nonce(t, e)
		}
		if _, err := w.Challenge(e.ctx(), nil); status.Code(err) != codes.ResourceExhausted {
			t.Error(err)
		}
		w.nonce(t, w.enclave(t, "rack-1")) // others are not held up
		w.advance(attestation.NonceLifetime)
		w.nonce(t, e)
	})
}

// A result counts for the enclave that it is about, while the host is there, this is its newest enclave, and its time lasts.
func TestCallers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, nil)
		w.add(t, "rack-2", journal.TierNitro, callerOf("rack-2"), false)
		attested := func(name string) (*enclave, string) {
			e := w.enclave(t, name)
			reply, err := w.Attest(e.ctx(), w.good(t, e, w.nonce(t, e)))
			if err != nil {
				t.Fatal(err)
			}
			return e, reply.GetResult()
		}
		is := func(what string, ctx context.Context, token string, want codes.Code) {
			t.Helper()
			err := w.db.View(ctx, func(tx *store.Tx) error {
				_, err := w.callers.Enclave(ctx, tx, token)
				return err
			})
			if status.Code(err) != want {
				t.Errorf("%s: %v", what, err)
			}
		}
		one, token := attested("rack-1")
		two, token2 := attested("rack-2")
		is("with its result", one.ctx(), token, codes.OK)
		is("without naming it", one.ctx(), "", codes.OK)
		is("nobody", context.Background(), token, codes.Unauthenticated)
		is("another enclave's result", one.ctx(), token2, codes.PermissionDenied)
		is("a stranger with a stolen result", w.enclave(t, "rack-1").ctx(), token, codes.PermissionDenied)
		is("a parent with a stolen result", peer.With(context.Background(), &peer.Peer{Key: one.key.ID()}), token, codes.PermissionDenied)
		is("not a result", one.ctx(), "x", codes.PermissionDenied)

		if err := w.db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Exec(`UPDATE hosts SET tier = ? WHERE name = ?`, journal.TierTPM, "rack-2")
		}); err != nil {
			t.Fatal(err)
		}
		is("of another tier than the database says", two.ctx(), token2, codes.PermissionDenied)
		w.add(t, "rack-2", journal.TierNitro, callerOf("rack-2"), true)
		two, token2 = attested("rack-2")

		again, token3 := attested("rack-1")
		is("the enclave after a restart", again.ctx(), token3, codes.OK)
		is("the one before it", one.ctx(), token, codes.PermissionDenied)

		w.advance(attestation.DefaultLifetime)
		is("ended", again.ctx(), token3, codes.PermissionDenied)
		is("ended, without naming it", again.ctx(), "", codes.PermissionDenied)
		w.advance(-time.Minute)
		is("not ended", two.ctx(), token2, codes.OK)
		if _, err := w.fleet.RemoveHost(w.operator, &controllerv1.RemoveHostRequest{Name: "rack-2"}); err != nil {
			t.Fatal(err)
		}
		is("of a host that was removed", two.ctx(), token2, codes.PermissionDenied)
	})
}

// A stranger who claims a host's configuration writes little into the audit, and takes nothing from the host.
func TestRefusalsAreFolded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, nil)
		stranger := w.enclave(t, "rack-1")
		before := len(w.audit(t))
		for i := range 6 {
			request := w.good(t, stranger, w.nonce(t, stranger))
			if request.Document = nil; i%2 == 1 {
				request.Tier = "sgx"
			}
			if _, err := w.Attest(stranger.ctx(), request); err == nil {
				t.Fatal("accepted")
			}
		}
		if lines := w.audit(t); len(lines) != before+1 {
			t.Errorf("%q", lines[before:])
		}
		if h := w.host(t, "rack-1"); h.GetVerdict() != "encoding" {
			t.Errorf("%v", h)
		}
	})
}

func TestNoReferences(t *testing.T) {
	w := newWorld(t, t.TempDir()+"/db", nil)
	if err := w.db.Update(context.Background(), func(tx *store.Tx) error { return tx.Exec(`DELETE FROM measurements`) }); err != nil {
		t.Fatal(err)
	}
	e := w.enclave(t, "rack-1")
	if _, err := w.Attest(e.ctx(), w.good(t, e, w.nonce(t, e))); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "raypher fleet measurements") {
		t.Error(err)
	}
}

// A list that was written into the database without a golden key's signature is not believed.
func TestForgedReferences(t *testing.T) {
	w := newWorld(t, t.TempDir()+"/db", nil)
	if err := w.db.Update(context.Background(), func(tx *store.Tx) error { return tx.Exec(`UPDATE measurements SET list = ?`, []byte("forged")) }); err != nil {
		t.Fatal(err)
	}
	e := w.enclave(t, "rack-1")
	if _, err := w.Attest(e.ctx(), w.good(t, e, w.nonce(t, e))); err == nil {
		t.Error("accepted")
	}
}
