package agents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/visa"
)

// errForged says that a record is not what this raypherd wrote.
var errForged = errors.New("its record does not agree with what the enclave signed: the agent is ended rather than trusted with it")

// signed checks what a record says of an agent against its visas, of which the first and the current one are kept: permits,
// subject, user, key and program are in them, under the signature of an enclave that this raypherd pinned: the one that it has now, or one
// that this one came after by its measurements.
func (h *Host) signed(a *Agent) error {
	pinned, err := h.options.EnclaveKeys()
	if err != nil {
		return fmt.Errorf("its record cannot be checked: %w", err)
	}
	of := func(der, encoded []byte, permit *policy.Policy) (*visa.Claims, error) {
		key, err := journal.ParseKey(der)
		if err != nil {
			return nil, fmt.Errorf("the enclave's key: %w", err)
		}
		if !slices.Contains(pinned, key.ID()) {
			return nil, fmt.Errorf("it is signed with key %s, which this raypherd's enclaves did not have", key)
		}
		return a.claimed(key, encoded, permit)
	}
	if _, err := of(a.enclaveKey, a.launchVisa, a.launchPermit); err != nil {
		return fmt.Errorf("%w: the visa of the launch: %w", errForged, err)
	}
	current, err := of(a.grant.enclaveKey, a.grant.visa, a.grant.permit)
	if err != nil {
		return fmt.Errorf("%w: the current visa: %w", errForged, err)
	}
	if err := a.withinLaunch(a.grant.permit); err != nil {
		return fmt.Errorf("%w: the current visa: %w", errForged, err)
	}
	// The deadline is by a clock of its own, which no visa names; it cannot be later than a visa that was granted just now.
	lifetime := time.Duration(current.ExpiresAt-current.IssuedAt) * time.Second
	if a.grant.expires != current.ExpiresAt || a.grant.lifetime != lifetime || until(a.grant.deadline) > lifetime {
		return fmt.Errorf("%w: the current visa lasts %s until %s", errForged, lifetime, time.Unix(current.ExpiresAt, 0).UTC().Format(time.RFC3339))
	}
	a.grant.visaID, a.grant.policyHash, a.tier = current.ID, current.PolicyHash, current.Tier
	return nil
}

// withinLaunch refuses a permit that grants more than that of the launch, which the floor was built from.
func (a *Agent) withinLaunch(permit *policy.Policy) error {
	if permit.Hash() == a.launchPermit.Hash() {
		return nil
	}
	if _, err := policy.Narrow(a.launchPermit, permit); err != nil {
		return fmt.Errorf("beyond what the launch was granted: %w", err)
	}
	if isolates(permit) && !a.isolated() {
		return ErrStaysShared
	}
	return nil
}

// signer is the key of the enclave that signed a visa which came just now: that of the visa before, or that of an enclave that was started anew
// and pinned since.
func (a *Agent) signer(ctx context.Context, encoded []byte) ([]byte, error) {
	a.mu.Lock()
	known := a.grant.enclaveKey
	a.mu.Unlock()
	if signedBy(known, encoded) == nil {
		return known, nil
	}
	enclave, err := a.host.options.Enclave.Describe(ctx)
	if err != nil {
		return nil, err
	}
	return enclave.PublicKey, signedBy(enclave.PublicKey, encoded)
}

func signedBy(der, encoded []byte) error {
	key, err := journal.ParseKey(der)
	if err != nil {
		return err
	}
	_, err = verifiedBy(key, encoded)
	return err
}

// verifiedBy verifies a visa at the time of its issue.
func verifiedBy(key *journal.Key, encoded []byte) (*visa.Claims, error) {
	said, err := visa.Read(encoded)
	if err != nil {
		return nil, err
	}
	return visa.Verify(encoded, visa.Options{
		Keys: []*journal.Key{key}, Now: time.Unix(said.IssuedAt, 0), AllowSoftware: true, Audience: said.Audience,
	})
}

// claimed verifies one visa of the agent and that it is the one on this permit. When it ends is not looked at: an agent whose
// visa has ended is found again too, closed.
func (a *Agent) claimed(key *journal.Key, encoded []byte, permit *policy.Policy) (*visa.Claims, error) {
	claims, err := verifiedBy(key, encoded)
	if err != nil {
		return nil, err
	}
	hash := permit.Hash()
	asserted := claims.Asserted
	for _, c := range []struct {
		what string
		same bool
	}{
		{"permit", bytes.Equal(claims.PermitHash, hash[:])},
		{"agent", asserted.AgentID == a.id},
		{"subject", claims.Subject == a.subject},
		{"namespace", claims.Namespace == a.namespace},
		{"user", asserted.UID == a.uid && asserted.User == a.user},
		{"program", bytes.Equal(asserted.BinarySHA256, a.digest)},
		{"process", asserted.PID == int32(a.runnerPID)},
		{"confirmation key", bytes.Equal(claims.Confirmation.Key, a.confirmation)},
		{"cgroup", asserted.Cgroup == a.attached},
		{"policy", bytes.Equal(claims.PolicyHash, a.sourceHash)},
	} {
		if !c.same {
			return nil, fmt.Errorf("visa %x is for another %s", claims.ID, c.what)
		}
	}
	return claims, nil
}
