package release

import (
	"crypto/sha256"
	"encoding/binary"
)

// Everyone is the percentage of a release that is no canary.
const Everyone = 100

// Covers says whether a release to so many percent of agents is for this one: the number that the first eight bytes of
//
//	SHA-256(name of the policy, NUL, subject of the agent)
//
// make, big-endian, modulo 100, is below percent. An agent is therefore in or out wherever and whenever it is asked, whatever the
// version, and raising the percentage only adds agents. subject is the SPIFFE ID in the agent's visa.
//
// Of the releases of a name that a host holds, an agent gets the one of the highest version that covers it.
func Covers(name, subject string, percent uint32) bool {
	sum := sha256.Sum256([]byte(name + "\x00" + subject))
	return binary.BigEndian.Uint64(sum[:8])%Everyone < uint64(percent)
}
