package enclave

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/providerkeys"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// dataKeeper is a signer that can keep a key of the enclave for itself: that of tier tpm.
type dataKeeper interface {
	DataKey(ctx context.Context, name string) ([]byte, error)
}

// openProviderKeys reads the keys that operators gave this enclave.
func (s *Server) openProviderKeys() (err error) {
	development, err := s.developmentKey()
	if err != nil {
		return err
	}
	o := providerkeys.Options{
		State: s.opts.State, OperatorKeys: s.opts.Configuration.OperatorKeys, Development: development, Epoch: s.epoch, Signer: signer.ForJournal(context.Background(), s.opts.Signer),
		Keeps: s.opts.Signer.Tier() != journal.TierNitro, Record: func(ctx context.Context, entry []byte) error { return onRecord{s.journal}.Append(ctx, entry) },
		Log: s.opts.Log,
	}
	if s.fleet != nil || s.kms != nil {
		o.Outside = s.Secret
	}
	switch keeper, ok := s.opts.Signer.(dataKeeper); {
	case ok:
		o.DataKey = func() ([]byte, error) {
			ctx, cancel := context.WithTimeout(context.Background(), CallTimeout)
			defer cancel()
			return keeper.DataKey(ctx, "provider-keys")
		}
	case s.opts.Signer.Tier() == journal.TierTPM:
		return errors.New("provider keys: the signer of tier tpm keeps no key: this is a bug")
	}
	s.secrets, err = providerkeys.Open(o)
	return err
}

// DescribeProviderKeys implements the service.
func (s *Server) DescribeProviderKeys(_ context.Context, r *enclavev1.DescribeProviderKeysRequest) (*enclavev1.ProviderKeys, error) {
	list, version := s.secrets.List()
	reply := &enclavev1.ProviderKeys{Epoch: s.epoch[:], Version: version, Tier: s.opts.Signer.Tier()}
	for _, k := range list {
		reply.Keys = append(reply.Keys, &enclavev1.ProviderKey{Name: k.Name, ChangedUnix: k.Changed.Unix(), Fingerprint: k.Fingerprint[:]})
	}
	if r.GetRecipient() {
		signed, err := s.secrets.Recipient()
		if err != nil {
			return nil, asKeyStatus(err)
		}
		reply.Recipient = signed
	}
	return reply, nil
}

// ChangeProviderKey implements the service. The change is on record in the journal before it is in force.
func (s *Server) ChangeProviderKey(ctx context.Context, r *enclavev1.ChangeProviderKeyRequest) (*enclavev1.ProviderKeys, error) {
	if err := s.secrets.Apply(ctx, r.GetChange()); err != nil {
		return nil, asKeyStatus(err)
	}
	return s.DescribeProviderKeys(ctx, &enclavev1.DescribeProviderKeysRequest{})
}

func asKeyStatus(err error) error {
	for _, c := range []struct {
		target error
		code   codes.Code
	}{
		{providerkeys.ErrMalformed, codes.InvalidArgument},
		{providerkeys.ErrSignature, codes.PermissionDenied},
		{providerkeys.ErrVersion, codes.FailedPrecondition},
		{providerkeys.ErrRefused, codes.FailedPrecondition},
	} {
		if errors.Is(err, c.target) {
			return status.Error(c.code, err.Error())
		}
	}
	return err
}
