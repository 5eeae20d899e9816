package attestation

import "crypto/ecdsa"

// Keys sign results and records of activation, and verify them. Replicas share the one that signs.
type Keys struct {
	Signing *ecdsa.PrivateKey
	Former  []*ecdsa.PublicKey // still believed, and published: of before a rotation
}

// Public returns every key that is believed, the signing one first.
func (k *Keys) Public() []*ecdsa.PublicKey {
	return append([]*ecdsa.PublicKey{&k.Signing.PublicKey}, k.Former...)
}
