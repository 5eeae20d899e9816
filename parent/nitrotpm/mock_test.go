package nitrotpm_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
)

// mock stands between a client and swtpm, and adds what a NitroTPM has and swtpm has not, as AWS publishes it: the vendor command, and NV
// indices of 8 KiB. No such chip exists outside AWS. Everything else, passwords too, swtpm judges: what it is asked about a large index is
// asked about one of 2 KiB, and the bytes are kept here.
type mock struct {
	t      *testing.T
	tpm    *tpmtest.TPM
	socket string
	answer func(nonce []byte) []byte // what the security module answers, in CBOR
	lacks  bool                      // the vendor command: as any other TPM

	mu       sync.Mutex
	contents []byte // of the large index
	commands []uint32
}

const (
	nvDefineSpace   = 0x12a
	nvWrite         = 0x137
	nvRead          = 0x14e
	vendorNSM       = 0x20000001
	swtpmMost       = 2048 // bytes of an NV index
	unknownCommand  = 0x143
	sessionsTag     = 0x8002
	handlesAndSizes = 10 + 4 + 4 // where the authorization area of commands with two handles begins
)

// newMock starts it. Documents are of the laboratory's authority.
func newMock(t *testing.T, pki *nitrotest.PKI, state string) *mock {
	t.Helper()
	dir, err := os.MkdirTemp("", "nitrotpm") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	m := &mock{t: t, tpm: tpmtest.Start(t, state), socket: filepath.Join(dir, "tpm")}
	m.answer = func(nonce []byte) []byte {
		document := pki.InstanceDraft(pki.Leaf(t), nonce, pki.At).Seal(t)
		return nitrotest.CBOR(t, map[string]any{"Attestation": map[string]any{"document": document}})
	}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for { // one client at a time, as the device
			client, err := l.Accept()
			if err != nil {
				return
			}
			m.serve(client)
			client.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done; os.RemoveAll(dir) })
	return m
}

func (m *mock) serve(client net.Conn) {
	tpm, err := net.Dial("unix", m.tpm.Socket)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer tpm.Close()
	for {
		command, err := frame(client)
		if err != nil {
			return
		}
		response, err := m.run(command, func(command []byte) ([]byte, error) {
			if _, err := tpm.Write(command); err != nil {
				return nil, err
			}
			return frame(tpm)
		})
		if err != nil {
			m.t.Error(err)
			return
		}
		if _, err := client.Write(response); err != nil {
			return
		}
	}
}

// frame reads one command or response.
func frame(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	whole := slices.Grow(header, 4096)[:binary.BigEndian.Uint32(header[2:])]
	_, err := io.ReadFull(r, whole[10:])
	return whole, err
}

func code(frame []byte) uint32 { return binary.BigEndian.Uint32(frame[6:]) }

// run answers a command, with the help of the TPM.
func (m *mock) run(command []byte, tpm func([]byte) ([]byte, error)) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands = append(m.commands, code(command))
	last := command[len(command)-2:] // of the parameters: size of an index, or offset
	value := binary.BigEndian.Uint16(last)
	switch code(command) {
	case nvDefineSpace:
		if value > swtpmMost {
			binary.BigEndian.PutUint16(last, swtpmMost)
			m.contents = make([]byte, value)
		}
		return tpm(command)
	case nvWrite:
		clear(last) // offset 0
		response, err := tpm(command)
		if err == nil && code(response) == 0 {
			data := parameters(command)[2:]
			copy(m.contents[value:], data[:len(data)-2])
		}
		return response, err
	case nvRead:
		clear(last)
		response, err := tpm(command)
		if err == nil && code(response) == 0 { // header, size of the parameters, size of the data
			data := response[10+4+2:]
			copy(data[:binary.BigEndian.Uint16(response[10+4:])], m.contents[value:])
		}
		return response, err
	case vendorNSM:
		return m.nsm(command, tpm)
	}
	return tpm(command)
}

// parameters of a command with two handles and sessions.
func parameters(command []byte) []byte {
	area := command[handlesAndSizes:]
	return area[4+binary.BigEndian.Uint32(area):]
}

// nsm is the vendor command. swtpm judges the password, by a read of the index with the same authorization.
func (m *mock) nsm(command []byte, tpm func([]byte) ([]byte, error)) ([]byte, error) {
	if m.lacks {
		return tpm(command)
	}
	if len(parameters(command)) != 0 {
		m.t.Error("the vendor command has parameters")
	}
	read := append(slices.Clone(command), 0, 1, 0, 0) // one byte, at offset 0
	binary.BigEndian.PutUint32(read[2:], uint32(len(read)))
	binary.BigEndian.PutUint32(read[6:], nvRead)
	if response, err := tpm(read); err != nil || code(response) != 0 {
		return response, err
	}
	var request map[string]struct {
		Nonce     []byte `cbor:"nonce"`
		UserData  []byte `cbor:"user_data"`
		PublicKey []byte `cbor:"public_key"`
	}
	if _, err := cbor.UnmarshalFirst(m.contents, &request); err != nil {
		return nil, err
	}
	wanted, is := request["Attestation"]
	if !is || len(request) != 1 || wanted.UserData != nil || wanted.PublicKey != nil {
		m.t.Errorf("request %+v", request)
	}
	for i := range m.contents {
		m.contents[i] = 0xff // as others have seen it
	}
	copy(m.contents, m.answer(wanted.Nonce))
	response := binary.BigEndian.AppendUint16(nil, sessionsTag)
	response = append(response, 0, 0, 0, 10+4+5, 0, 0, 0, 0 /* success */, 0, 0, 0, 0 /* no parameters */)
	return append(response, 0, 0, 1, 0, 0 /* of a password: the session goes on */), nil
}
