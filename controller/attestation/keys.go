package attestation

import "crypto/ecdsa"

// Keys sign results and records of activation, and verify them. Replicas share the one that signs.
type Keys struct {
	Signing *ecdsa.PrivateKey
	Former  []*ecdsa.PublicKey // believed and published too: of before or after a change
}

// Public returns every key that is believed, the signing one first.
func (k *Keys) Public() []*ecdsa.PublicKey {
	return append([]*ecdsa.PublicKey{&k.Signing.PublicKey}, k.Former...)
}
