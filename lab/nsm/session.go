package nsm

import (
	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// Session is a module without a driver: requests and answers are the same bytes, in this process. It is what enclave/signer/nitro
// makes a device of.
type Session func(request []byte) ([]byte, error)

// Session returns a session with the module.
func (m *Module) Session() Session {
	return func(request []byte) ([]byte, error) { return m.Answer(request), nil }
}

// Send sends one request.
func (s Session) Send(r request.Request) (response.Response, error) {
	raw, err := cbor.Marshal(r.Encoded())
	if err != nil {
		return response.Response{}, err
	}
	answer, err := s(raw)
	if err != nil {
		return response.Response{}, err
	}
	var reply response.Response
	err = cbor.Unmarshal(answer, &reply)
	return reply, err
}

// Close does nothing: the module stays.
func (Session) Close() error { return nil }
