// Package journal is the format of Raypher's journal: entries, their payloads, the Merkle tree over them, signed tree heads
// and the proofs that tie an entry to a head. Both sides of the pair and every verifier use it; it does no input or output,
// keeps no state beyond a [Tree] and imports neither side.
//
// The journal is an RFC 6962 log. The enclave is its only writer: it gathers entries, appends them to the tree, signs one
// head for all of them ([SignHead]) and releases each with a [Receipt] once the parent has synced them to disk. An epoch is
// the life of one enclave process: it starts with an entry of type [TypeEpoch], and its tree starts empty.
//
// Everything is deterministic CBOR (RFC 8949, section 4.2.1): integer keys, definite lengths, no tags but the one named.
// Decoders refuse duplicate keys, unknown keys (but see [Decode]), other encodings of the same value, and whatever exceeds
// the bounds below; they are fit for hostile input.
//
// # Entry
//
// A map; the leaf hash is SHA-256(0x00 || these bytes).
//
//	1  type     uint   registry: the Type constants
//	2  time     int    nanoseconds since the Unix epoch, the enclave's clock
//	3  payload  bstr   by type, at most MaxEntrySize with its frame
//
// # Tree head
//
// COSE_Sign1 (RFC 9052, section 4.2), tag 18, algorithm ES256, external data empty, unprotected header empty.
//
//	protected header
//	1    alg   -7 (ES256)
//	4    kid   bstr, SHA-256 of the signing key's PKIX DER
//	16   typ   "application/raypher-head+cbor" (RFC 9596)
//	395  vds   1 (RFC9162_SHA256, COSE Receipts)
//
//	payload, a map
//	1  epoch               bstr, 16 bytes
//	2  size                uint, entries in the tree
//	3  root                bstr, 32 bytes
//	4  time                int, nanoseconds since the Unix epoch
//	5  tier                tstr: software | tpm | nitro
//	6  configuration hash  bstr, SHA-256 of the start configuration
//
// ECDSA is malleable: the same head has several valid encodings. Never use the bytes of a signed head, or of anything that
// holds one, as a replay key; use epoch and size, or the identifier in the entry.
//
// # Receipt
//
// A map. The size of the tree is the one in the head.
//
//	1  epoch        bstr, 16 bytes
//	2  index        uint, number of the entry in its epoch, from 0
//	3  path         array of bstr, 32 bytes each: the audit path of RFC 6962, section 2.1.1, lowest first
//	4  signed head  bstr
//
// # Key evidence
//
// Says why a key may be believed to belong to an enclave of a tier. A map, then the document by tier.
//
//	1  tier      tstr
//	2  document  bstr
//
// For the tier software the document is a COSE_Sign1 as above, with typ "application/raypher-key+cbor" and without vds,
// made by the key itself: it proves possession and nothing else.
//
//	1  tier                tstr, "software"
//	2  public key          bstr, PKIX DER
//	3  epoch               bstr, 16 bytes
//	4  configuration hash  bstr, 32 bytes
//	5  nonce               bstr, at most 64 bytes, absent where nobody asked
//	6  time                int, nanoseconds since the Unix epoch
//
// # Payloads
//
// Type 1, epoch, is entry 0 of each epoch and appears nowhere else:
//
//	1  epoch               bstr, 16 bytes
//	2  public key          bstr, PKIX DER of the key that signs this epoch's heads
//	3  tier                tstr
//	4  configuration hash  bstr, 32 bytes
//	5  key evidence        map as above, for the key in 2
//	6  predecessor         map, absent in the first epoch of a store:
//	   1 epoch, 2 size, 3 signed head, 4 key evidence (map)
//
// Type 2, visa: the claims, see package visa. Type 3, verdict: [Verdict]. Type 5, ceiling: 1 version (uint), 2 SHA-256 of
// the bundle (bstr, 32 bytes). The other types are reserved; their payloads are kept as they are.
package journal
