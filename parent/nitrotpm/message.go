package nitrotpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/hf/nsm/request"
)

// commandNSM is TPM2_VENDOR_AWS_NSM_REQUEST; bit 29 is that of vendors' commands (Part 2, 8.9).
const commandNSM = 0x20000001

const (
	maxNonce   = 512 // bytes, of the Nitro Secure Module's documents
	headerSize = 10  // tag, size, code (Part 1, 18.2)
)

// command sends the vendor command: the index's password opens it, the index is the message, there are no parameters.
func command(tpm transport.TPM, index uint32, auth []byte) error {
	frame := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	frame = binary.BigEndian.AppendUint32(frame, uint32(headerSize+4+4+4+4+2+1+2+len(auth)))
	frame = binary.BigEndian.AppendUint32(frame, commandNSM)
	frame = binary.BigEndian.AppendUint32(frame, index) // whose password it is
	frame = binary.BigEndian.AppendUint32(frame, index) // which one is the message
	frame = binary.BigEndian.AppendUint32(frame, uint32(4+2+1+2+len(auth)))
	frame = binary.BigEndian.AppendUint32(frame, uint32(tpm2.TPMRSPW))
	frame = append(frame, 0, 0, 0) // no nonce, no attributes
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(auth)))
	frame = append(frame, auth...)
	response, err := tpm.Send(frame)
	if err != nil {
		return err
	}
	if len(response) < headerSize || binary.BigEndian.Uint32(response[2:]) != uint32(len(response)) {
		return errors.New("what it answers is no TPM response")
	}
	// The kernel's resource manager answers in the TPM's name, with its own number above the code.
	if code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]) & 0xffff); code != tpm2.TPMRCSuccess {
		return code
	}
	return nil
}

func encodeRequest(nonce []byte) ([]byte, error) {
	if len(nonce) == 0 || len(nonce) > maxNonce {
		return nil, fmt.Errorf("a nonce of %d bytes, expected 1 to %d", len(nonce), maxNonce)
	}
	return cbor.Marshal((&request.Attestation{Nonce: nonce}).Encoded())
}

// response is what the buffer holds then: the one or the other.
type response struct {
	Attestation *struct {
		Document []byte `cbor:"document"`
	} `cbor:"Attestation"`
	Error string `cbor:"Error"`
}

// decodeResponse finds the document in a buffer. What follows the response is not looked at; whoever verifies the document is strict.
func decodeResponse(buffer []byte) ([]byte, error) {
	var r response
	if _, err := cbor.UnmarshalFirst(buffer, &r); err != nil {
		return nil, fmt.Errorf("its response cannot be read: %w", err)
	}
	if r.Error != "" {
		return nil, fmt.Errorf("its security module says %.64q", r.Error)
	}
	if r.Attestation == nil || len(r.Attestation.Document) == 0 {
		return nil, errors.New("its response holds no document")
	}
	return r.Attestation.Document, nil
}
