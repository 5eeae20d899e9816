package fleet

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest/result"
	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// activationFile in the state folder is the controller's record that the TPM's attestation key was activated. It is no secret.
const activationFile = "controller.activation"

const nonceSize = 32 // of a challenge, in bytes

// ErrResult: the controller sent a result that is not about this enclave, or not from now.
var ErrResult = errors.New("attestation result is not about this enclave")

// activator is what the signer of tier tpm can do for an enrolment.
type activator interface {
	Identity(ctx context.Context) (*attest.Identity, error)
	Activate(ctx context.Context, credential, secret []byte) ([]byte, error)
}

// attest gets a new result. A TPM whose attestation key the controller does not know yet is enrolled on the way.
func (c *Client) attest(ctx context.Context) error {
	activation, err := statefile.Read(filepath.Join(c.opts.State, activationFile), attest.MaxStructureSize)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("activation record: %w", err)
	}
	err = c.attestWith(ctx, activation)
	a, can := c.opts.Signer.(activator)
	if !can || status.Code(err) != codes.PermissionDenied || !strings.Contains(status.Convert(err).Message(), string(attest.CheckActivation)) {
		return wrapped("attest", err)
	}
	if activation, err = c.enrol(ctx, a); err != nil {
		return fmt.Errorf("enrol this TPM as host %q: %w", c.opts.Host, err)
	}
	return wrapped("attest", c.attestWith(ctx, activation))
}

func wrapped(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// attestWith is one challenge and its evidence.
func (c *Client) attestWith(ctx context.Context, activation []byte) error {
	begun := c.opts.now()
	calling, cancel := context.WithTimeout(ctx, CallTimeout)
	challenge, err := c.attestation.Challenge(calling, &controllerv1.ChallengeRequest{})
	cancel()
	if err != nil {
		return err
	}
	if n := len(challenge.GetNonce()); n != nonceSize {
		return fmt.Errorf("a challenge of %d bytes, expected %d", n, nonceSize)
	}
	binding := signer.Binding{Epoch: c.opts.Epoch, Configuration: c.conf}
	evidence, err := c.opts.Signer.Evidence(ctx, challenge.GetNonce(), binding)
	if err != nil {
		return err
	}
	request := &controllerv1.AttestRequest{
		Nonce: challenge.GetNonce(), Tier: evidence.Tier, Document: evidence.Document,
		Configuration: c.opts.Configuration.Format(), Activation: activation,
	}
	if evidence.Tier == journal.TierNitro {
		request.NitroTpmDocument = c.instanceDocument(ctx, challenge.GetNonce())
	}
	if version, hash := c.opts.Ceiling(); version > 0 {
		request.CeilingVersion, request.CeilingHash = version, hex.EncodeToString(hash[:])
	}
	calling, cancel = context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	reply, err := c.attestation.Attest(calling, request)
	if err != nil {
		return err
	}
	h, err := c.check(reply.GetResult(), challenge.GetNonce(), begun)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = h
	return nil
}

// instanceDocument is that of the NitroTPM of the enclave's instance, if its parent shows one: nil is no reason not to be attested. The parent's
// log says why there is none.
func (c *Client) instanceDocument(ctx context.Context, nonce []byte) []byte {
	if c.opts.InstanceDocument == nil {
		return nil
	}
	document, err := c.opts.InstanceDocument(ctx, nonce)
	if err != nil {
		c.opts.Log.Debug("attesting without a document of the instance's NitroTPM", "reason", err)
		return nil
	}
	return document
}

// check holds a result against this enclave and the nonce that it asked for.
func (c *Client) check(token string, nonce []byte, begun time.Time) (*held, error) {
	r, err := result.Verify(token, c.resultKeys, c.opts.wall())
	if err != nil {
		return nil, err
	}
	for _, is := range []struct {
		what string
		so   bool
	}{
		{"key", r.Key.ID() == c.key.ID()},
		{"epoch", r.Epoch == c.opts.Epoch},
		{"configuration", r.Configuration == c.conf},
		{"tier", r.Tier == c.opts.Signer.Tier()},
		{"trust domain", r.TrustDomain == c.opts.Configuration.TrustDomain},
		{"nonce", bytes.Equal(r.Nonce, nonce)},
	} {
		if !is.so {
			return nil, fmt.Errorf("%w: it names another %s", ErrResult, is.what)
		}
	}
	h := &held{token: token, result: r, begun: begun}
	if c.left(h) <= 0 {
		return nil, fmt.Errorf("%w: its time is over", ErrResult)
	}
	return h, nil
}

// enrol proves to the controller that the attestation key lies in the TPM of its EK certificate, and keeps the record of it.
func (c *Client) enrol(ctx context.Context, a activator) ([]byte, error) {
	id, err := a.Identity(ctx)
	if err != nil {
		return nil, err
	}
	calling, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	begin, err := c.attestation.BeginEnrolment(calling, &controllerv1.BeginEnrolmentRequest{Host: c.opts.Host, Identity: id.Encode()})
	if err != nil {
		return nil, err
	}
	challenge, err := attest.ParseMessage(begin.GetChallenge())
	if err != nil {
		return nil, err
	}
	answer, err := a.Activate(ctx, challenge.Credential, challenge.Secret) // some chips take many seconds
	if err != nil {
		return nil, err
	}
	calling, cancel = context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	end, err := c.attestation.EndEnrolment(calling, &controllerv1.EndEnrolmentRequest{Enrolment: begin.GetEnrolment(), Secret: answer})
	if err != nil {
		return nil, err
	}
	if _, _, err := attest.ParseActivation(end.GetActivation()); err != nil {
		return nil, err
	}
	if err := statefile.Write(c.opts.State, activationFile, end.GetActivation()); err != nil {
		return nil, fmt.Errorf("keep the activation record: %w", err)
	}
	c.opts.Log.Info("this TPM is enrolled with the controller", "host", c.opts.Host)
	return end.GetActivation(), nil
}

// recipientFor makes a key for secrets, good as long as the result that entitles to them.
func (c *Client) recipientFor(ctx context.Context, h *held) (*recipient.Key, []byte, error) {
	key, err := recipient.Make()
	if err != nil {
		return nil, nil, err
	}
	until := h.result.Expires
	if most := c.opts.wall().Add(recipient.MaxLifetime - 2*result.ClockSkew); until.After(most) {
		until = most
	}
	signed, err := key.Sign(signer.ForJournal(ctx, c.opts.Signer), c.opts.Epoch, until)
	return key, signed, err
}
