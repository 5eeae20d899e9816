package attestation_test

import (
	"context"
	"crypto/sha256"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/controller/attestation"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/tpm"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// machine is a host with a TPM (swtpm), and an enclave whose key lies in it.
type machine struct {
	*enclave
	tpm *tpm.Key
}

func (w *world) machine(t *testing.T, ca *tpmtest.CA, name string) *machine {
	t.Helper()
	device, err := tpm.OpenDevice(tpmtest.Start(t, ca.Make(t)).Socket)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := tpm.Open(context.Background(), tpm.Options{TPM: device, State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { key.Close() })
	m := &machine{w.enclave(t, name), key}
	if m.key, err = journal.NewKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) identity(t *testing.T) []byte {
	t.Helper()
	id, err := m.tpm.Identity(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return id.Encode()
}

// enrol runs credential activation, and returns the record.
func (w *world) enrol(t *testing.T, m *machine, name string) []byte {
	t.Helper()
	begun, err := w.BeginEnrolment(m.ctx(), &controllerv1.BeginEnrolmentRequest{Host: name, Identity: m.identity(t)})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := w.EndEnrolment(m.ctx(), &controllerv1.EndEnrolmentRequest{Enrolment: begun.GetEnrolment(), Secret: m.answer(t, begun.GetChallenge())})
	if err != nil {
		t.Fatal(err)
	}
	return reply.GetActivation()
}

func (m *machine) answer(t *testing.T, challenge []byte) []byte {
	t.Helper()
	message, err := attest.ParseMessage(challenge)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := m.tpm.Activate(context.Background(), message.Credential, message.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func (w *world) bundle(t *testing.T, m *machine, nonce, activation []byte) *controllerv1.AttestRequest {
	t.Helper()
	evidence, err := m.tpm.Evidence(context.Background(), nonce, signer.Binding{Epoch: m.epoch, Configuration: m.hash(t)})
	if err != nil {
		t.Fatal(err)
	}
	return &controllerv1.AttestRequest{
		Nonce: nonce, Tier: journal.TierTPM, Document: evidence.Document, Configuration: []byte(m.configuration), Activation: activation,
	}
}

func refusedBy(t *testing.T, what, check string, err error) {
	t.Helper()
	if status.Code(err) != codes.PermissionDenied || !strings.HasPrefix(status.Convert(err).Message(), check+": ") {
		t.Errorf("%s: %v, want %q", what, err, check)
	}
}

// A host of tier tpm from its enrolment on: it is bound to its TPM, another TPM is refused until an operator says reset, and one TPM is one host.
func TestTPM(t *testing.T) {
	ca := tpmtest.NewCA(t)
	roots := rootsOf(t, ca)
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, func(o *attestation.Options) { o.TPMRoots = roots })
		w.add(t, "metal", journal.TierTPM, callerOf("metal"), false)
		m := w.machine(t, ca, "metal")

		_, err := w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), nil))
		refusedBy(t, "before its enrolment", "activation", err)

		record := w.enrol(t, m, "metal")
		if _, err := w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), record)); err != nil {
			t.Fatal(err)
		}
		bound := w.host(t, "metal")
		if bound.GetVerdict() != host.Affirming || !strings.HasPrefix(bound.GetIdentity(), "tpm ek sha256:") || bound.GetMeasurements() != "rack" {
			t.Errorf("%v", bound)
		}

		second := w.machine(t, ca, "metal")
		_, err = w.BeginEnrolment(second.ctx(), &controllerv1.BeginEnrolmentRequest{Host: "metal", Identity: second.identity(t)})
		refusedBy(t, "enrolment of a second TPM", "host", err)

		// The second TPM gets its record under another name; it does not serve for this host.
		w.add(t, "spare", journal.TierTPM, callerOf("spare"), false)
		record2 := w.enrol(t, second, "spare")
		_, err = w.Attest(second.ctx(), w.bundle(t, second, w.nonce(t, second.enclave), record2))
		refusedBy(t, "evidence of a second TPM", "identity", err)
		_, err = w.Attest(second.ctx(), w.bundle(t, second, w.nonce(t, second.enclave), record))
		refusedBy(t, "the record of another TPM", "activation", err)

		m.configuration = "caller_key = " + callerOf("spare").String() + "\n"
		_, err = w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), record))
		refusedBy(t, "one TPM as a second host", "identity", err)

		w.add(t, "metal", journal.TierTPM, callerOf("metal"), true)
		if _, err := w.Attest(second.ctx(), w.bundle(t, second, w.nonce(t, second.enclave), record2)); err != nil {
			t.Errorf("after a reset: %v", err)
		}
	})
}

// The certificate of a TPM is no secret, so anybody can begin an enrolment: wrong answers write little into the audit.
func TestEnrolmentsAreFolded(t *testing.T) {
	ca := tpmtest.NewCA(t)
	roots := rootsOf(t, ca)
	w := newWorld(t, t.TempDir()+"/db", func(o *attestation.Options) { o.TPMRoots = roots })
	w.add(t, "metal", journal.TierTPM, callerOf("metal"), false)
	m := w.machine(t, ca, "metal")
	before := len(w.audit(t))
	for range 4 {
		stranger := w.enclave(t, "metal")
		begun, err := w.BeginEnrolment(stranger.ctx(), &controllerv1.BeginEnrolmentRequest{Host: "metal", Identity: m.identity(t)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.EndEnrolment(stranger.ctx(), &controllerv1.EndEnrolmentRequest{Enrolment: begun.GetEnrolment(), Secret: make([]byte, attest.SecretSize)})
		refusedBy(t, "a wrong answer", "activation", err)
	}
	if lines := w.audit(t); len(lines) != before+1 || !strings.HasPrefix(lines[before], "enrol metal activation: ") {
		t.Errorf("%q", lines[before:])
	}
	if record := w.enrol(t, m, "metal"); len(record) == 0 {
		t.Error("no record")
	}
}

// Keys of attestation are made at will, and each has a name of its own: which TPM it is, its certificate says.
func TestOneTPMIsOneHost(t *testing.T) {
	ca := tpmtest.NewCA(t)
	roots := rootsOf(t, ca)
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, func(o *attestation.Options) { o.TPMRoots = roots })
		for _, name := range []string{"metal", "spare"} {
			w.add(t, name, journal.TierTPM, callerOf(name), false)
		}
		m := w.machine(t, ca, "metal")
		record := w.enrol(t, m, "metal")
		if _, err := w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), record)); err != nil {
			t.Fatal(err)
		}
		// As if metal had been attested with another key of the same TPM.
		if err := w.db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Exec(`UPDATE hosts SET identity = REPLACE(identity, ' ak ', ' ak 00'), enclave_key = '' WHERE name = ?`, "metal")
		}); err != nil {
			t.Fatal(err)
		}
		m.configuration = "caller_key = " + callerOf("spare").String() + "\n"
		_, err := w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), record))
		refusedBy(t, "one TPM, by another key, as a second host", "identity", err)
	})
}

func TestTPMRefusals(t *testing.T) {
	ca := tpmtest.NewCA(t)
	roots := rootsOf(t, ca)
	storetest.Each(t, func(t *testing.T, url string) {
		w := newWorld(t, url, func(o *attestation.Options) { o.TPMRoots = roots })
		w.add(t, "metal", journal.TierTPM, callerOf("metal"), false)
		m := w.machine(t, ca, "metal")
		foreign := w.machine(t, tpmtest.NewCA(t), "metal")
		begin := func(m *machine, name string, identity []byte) (*controllerv1.BeginEnrolmentReply, error) {
			return w.BeginEnrolment(m.ctx(), &controllerv1.BeginEnrolmentRequest{Host: name, Identity: identity})
		}

		_, err := begin(foreign, "metal", foreign.identity(t))
		refusedBy(t, "a TPM of a foreign maker", "endorsement", err)
		_, err = begin(m, "nowhere", m.identity(t))
		refusedBy(t, "a host that nobody named", "host", err)
		unknown := err.Error()
		_, err = begin(m, "rack-1", m.identity(t))
		refusedBy(t, "a host of another tier", "host", err)
		if got := strings.ReplaceAll(err.Error(), "rack-1", "nowhere"); got != unknown {
			t.Errorf("who may not know it is told which hosts there are: %q, and %q", got, unknown)
		}
		_, err = begin(m, "metal", []byte("x"))
		refusedBy(t, "no identity", "format", err)

		end := func(m *machine, id, secret []byte) error {
			_, err := w.EndEnrolment(m.ctx(), &controllerv1.EndEnrolmentRequest{Enrolment: id, Secret: secret})
			return err
		}
		begun, err := begin(m, "metal", m.identity(t))
		if err != nil {
			t.Fatal(err)
		}
		secret := m.answer(t, begun.GetChallenge())
		refusedBy(t, "another caller's enrolment", "activation", end(foreign, begun.GetEnrolment(), secret))
		refusedBy(t, "a wrong answer", "activation", end(m, begun.GetEnrolment(), make([]byte, attest.SecretSize)))
		refusedBy(t, "the right answer after a wrong one", "activation", end(m, begun.GetEnrolment(), secret))
		if begun, err = begin(m, "metal", m.identity(t)); err != nil {
			t.Fatal(err)
		}
		w.advance(attestation.EnrolmentLife)
		refusedBy(t, "too late", "activation", end(m, begun.GetEnrolment(), m.answer(t, begun.GetChallenge())))
		w.advance(-attestation.EnrolmentLife)

		record := w.enrol(t, m, "metal")
		for _, c := range []struct {
			name string
			edit func(*attest.Bundle)
			want string
		}{
			{"other registers than were quoted", func(b *attest.Bundle) { b.PCRs[0].Value[0] ^= 1 }, "pcrs"},
			{"a swapped signing key", func(b *attest.Bundle) { b.KeyPublic = b.AKPublic }, "attributes"},
			{"another epoch than was signed", func(b *attest.Bundle) { b.Epoch[0] ^= 1 }, "certified"},
			{"another maker's certificate", func(b *attest.Bundle) {
				id, err := foreign.tpm.Identity(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				b.EKCertificate = id.EKCertificate
			}, "activation"},
		} {
			request := w.bundle(t, m, w.nonce(t, m.enclave), record)
			b, err := attest.Decode(request.GetDocument())
			if err != nil {
				t.Fatal(err)
			}
			c.edit(b)
			if request.Document, err = b.Encode(); err != nil {
				t.Fatal(err)
			}
			_, err = w.Attest(m.ctx(), request)
			refusedBy(t, c.name, c.want, err)
		}
		request := w.bundle(t, m, w.nonce(t, m.enclave), record)
		request.Activation = []byte("x")
		_, err = w.Attest(m.ctx(), request)
		refusedBy(t, "no record", "activation", err)

		w.putGolden(t, strings.Replace(strings.Replace(otherGolden, "VERSION", "2", 1), "VALUE", strings.Repeat("ff", sha256.Size), 1))
		_, err = w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), record))
		refusedBy(t, "a machine that booted something else", "golden", err)

		w.advance(2 * attestation.MaxAge)
		_, err = w.Attest(m.ctx(), w.bundle(t, m, w.nonce(t, m.enclave), record))
		refusedBy(t, "an enclave whose clock is behind", "freshness", err)
	})
}

const otherGolden = `version: VERSION
not_after: "2099-01-01T00:00:00Z"
sets:
  - {name: rack, tier: tpm, bank: sha256, pcrs: {PCR7: "VALUE"}}
`

// rootsOf is the folder of a maker, whose keys are made with its first TPM.
func rootsOf(t *testing.T, ca *tpmtest.CA) *attest.Roots {
	t.Helper()
	ca.Make(t)
	roots, err := attest.LoadRoots(ca.Roots)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}
