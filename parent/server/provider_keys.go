package server

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// DescribeProviderKeys says which keys of providers the enclave holds, and to whom another one is encrypted.
func (s *operator) DescribeProviderKeys(ctx context.Context, r *parentv1.OperatorDescribeProviderKeysRequest) (*parentv1.OperatorProviderKeys, error) {
	keys, err := s.server.options.Enclave.DescribeProviderKeys(ctx, r.Recipient)
	if err != nil {
		return nil, err
	}
	return s.providerKeys(ctx, keys)
}

// ChangeProviderKey hands a change to the enclave, which checks the operator's signature and alone can read what is in it.
func (s *operator) ChangeProviderKey(ctx context.Context, r *parentv1.OperatorChangeProviderKeyRequest) (*parentv1.OperatorProviderKeys, error) {
	keys, err := s.server.options.Enclave.ChangeProviderKey(ctx, r.Change)
	if err != nil {
		return nil, err
	}
	s.server.options.Log.Info("a key of a provider was changed", "version", keys.GetVersion())
	return s.providerKeys(ctx, keys)
}

func (s *operator) providerKeys(ctx context.Context, keys *enclavev1.ProviderKeys) (*parentv1.OperatorProviderKeys, error) {
	d, err := s.server.options.Enclave.Describe(ctx)
	if err != nil {
		return nil, err
	}
	reply := &parentv1.OperatorProviderKeys{
		Version: keys.GetVersion(), Epoch: keys.GetEpoch(), Tier: keys.GetTier(), Recipient: keys.GetRecipient(), EnclaveKey: d.GetPublicKey(),
	}
	for _, k := range keys.GetKeys() {
		reply.Keys = append(reply.Keys, &parentv1.OperatorProviderKey{Name: k.GetName(), ChangedUnix: k.GetChangedUnix(), Fingerprint: k.GetFingerprint()})
	}
	return reply, nil
}
