// Package nitrotpm gets attestation documents from the NitroTPM of an EC2 instance: what the instance booted, in the TPM's registers, signed by
// the hypervisor under the same authorities as the documents of enclaves. raypherd hands them to its enclave, which shows them to its controller;
// attest/nitro.VerifyInstance verifies them, and nothing here has to be believed.
//
// The interface is the one that AWS publishes with its own client (github.com/aws/NitroTPM-Tools): a request of the Nitro Secure Module's
// language, in CBOR, is written into an NV index; a vendor command names the index; the TPM replaces its contents by the response. No NitroTPM was
// at hand: what it does beyond that is not known here (docs/nitro.md).
package nitrotpm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// Timeout bounds one document. What a NitroTPM takes is not known; a TPM that needs longer than a controller waits serves nobody.
const Timeout = 15 * time.Second

// The message buffer. Its index lies in the range for owners (Registry of Reserved TPM 2.0 Handles, 2.2.2), before those of package
// enclave/signer/tpm; a document has about 5 KiB, and each of its optional fields at most 1 KiB.
const (
	bufferIndex = 0x01800b00
	bufferSize  = 8192 // bytes
	maxChunk    = 1024 // bytes of one read or write; TPM_PT_NV_BUFFER_MAX may be less
	minChunk    = 64
)

// TPM is a NitroTPM. It is safe for concurrent use; documents are made one after the other.
type TPM struct {
	device string
	idle   chan struct{} // holds one token while nothing is asked
}

// At is the TPM of a device, as /dev/tpm0, or of the unix socket of a simulator. It is opened for each document, and not kept.
func At(device string) *TPM {
	t := &TPM{device: device, idle: make(chan struct{}, 1)}
	t.idle <- struct{}{}
	return t
}

// Document gets a document over a nonce, of at most 512 bytes, within Timeout. A TPM that hangs keeps its place until it answers: then others
// get an error after Timeout, too.
func (t *TPM) Document(ctx context.Context, nonce []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	select {
	case <-t.idle:
	case <-ctx.Done():
		return nil, fmt.Errorf("NitroTPM at %s: it is busy: %w", t.device, ctx.Err())
	}
	type answer struct {
		document []byte
		err      error
	}
	got := make(chan answer, 1)
	go func() { // a driver that hangs cannot be told to stop
		defer func() { t.idle <- struct{}{} }()
		document, err := t.ask(nonce)
		got <- answer{document, err}
	}()
	select {
	case a := <-got:
		if a.err != nil {
			return nil, fmt.Errorf("NitroTPM at %s: %w", t.device, a.err)
		}
		return a.document, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("NitroTPM at %s: no answer: %w", t.device, ctx.Err())
	}
}

func (t *TPM) ask(nonce []byte) (document []byte, err error) {
	defer func() {
		if r := recover(); r != nil { // in the library, over garbage
			err = fmt.Errorf("its answer cannot be read: %v", r)
		}
	}()
	request, err := encodeRequest(nonce)
	if err != nil {
		return nil, err
	}
	tpm, err := open(t.device)
	if err != nil {
		return nil, err
	}
	defer tpm.Close()
	b, err := define(tpm)
	if err != nil {
		return nil, err
	}
	response, err := b.exchange(request)
	if err = errors.Join(err, b.undefine()); err != nil {
		return nil, err
	}
	return decodeResponse(response)
}

func open(device string) (transport.TPMCloser, error) {
	info, err := os.Stat(device)
	if err != nil {
		return nil, opening(err)
	}
	if info.Mode()&os.ModeSocket != 0 {
		return linuxudstpm.Open(device)
	}
	tpm, err := linuxtpm.Open(device)
	return tpm, opening(err)
}

func opening(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: has the instance one? Its AMI has to be registered with TpmSupport v2.0", err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w: another program holds it: let that one use /dev/tpmrm0", err)
	}
	return err
}

// buffer is the NV index that carries a request to the TPM and its response back. Its password is random and lives as long.
type buffer struct {
	tpm   transport.TPM
	auth  []byte
	name  tpm2.TPM2BName
	chunk uint16
}

// attributes are those that AWS's client gives the index: whoever has its password reads and writes, and nobody else.
var attributes = tpm2.TPMANV{AuthWrite: true, AuthRead: true}

// define makes the buffer. One that an earlier raypherd left behind is removed first; an index of another kind is not touched.
func define(tpm transport.TPM) (*buffer, error) {
	b := &buffer{tpm: tpm, auth: make([]byte, 32), chunk: maxChunk}
	if _, err := rand.Read(b.auth); err != nil {
		return nil, err
	}
	if most := property(tpm, tpm2.TPMPTNVBufferMax); most >= minChunk && most < maxChunk {
		b.chunk = uint16(most)
	}
	command := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		Auth:       tpm2.TPM2BAuth{Buffer: b.auth},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: bufferIndex, NameAlg: tpm2.TPMAlgSHA512, Attributes: attributes, DataSize: bufferSize}),
	}
	_, err := command.Execute(tpm)
	if errors.Is(err, tpm2.TPMRCNVDefined) {
		if err = b.removeOld(); err == nil {
			_, err = command.Execute(tpm)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a message buffer of %d bytes in its memory: %w", bufferSize, explain(err))
	}
	return b, b.readName()
}

func property(tpm transport.TPM, which tpm2.TPMPT) uint32 {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(which), PropertyCount: 1}.Execute(tpm)
	if err != nil {
		return 0
	}
	data, err := r.CapabilityData.Data.TPMProperties()
	if err != nil || len(data.TPMProperty) != 1 || data.TPMProperty[0].Property != which {
		return 0
	}
	return data.TPMProperty[0].Value
}

// readName asks for the index's name, which the library wants. It changes with the first write, and does not matter where a password authorizes.
func (b *buffer) readName() error {
	r, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(bufferIndex)}.Execute(b.tpm)
	if err != nil {
		return err
	}
	b.name = r.NVName
	return nil
}

// removeOld removes an index that has the form of a buffer.
func (b *buffer) removeOld() error {
	r, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(bufferIndex)}.Execute(b.tpm)
	if err != nil {
		return err
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return err
	}
	form := public.Attributes
	form.Written = false
	if form != attributes || public.NameAlg != tpm2.TPMAlgSHA512 || len(public.AuthPolicy.Buffer) != 0 {
		return fmt.Errorf("NV index %#x is in use by another program", bufferIndex)
	}
	b.name = r.NVName
	return b.undefine()
}

func (b *buffer) undefine() error {
	_, err := tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: bufferIndex, Name: b.name},
	}.Execute(b.tpm)
	return err
}

// handle is the index, opened with its own password.
func (b *buffer) handle() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: bufferIndex, Name: b.name, Auth: tpm2.PasswordAuth(b.auth)}
}

// exchange has the TPM answer a request. The response is followed by what the buffer held before, or anything else.
func (b *buffer) exchange(request []byte) ([]byte, error) {
	for at := 0; at < len(request); at += int(b.chunk) {
		part := request[at:min(at+int(b.chunk), len(request))]
		_, err := tpm2.NVWrite{
			AuthHandle: b.handle(), NVIndex: tpm2.NamedHandle{Handle: bufferIndex, Name: b.name},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: part}, Offset: uint16(at),
		}.Execute(b.tpm)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
	}
	if err := command(b.tpm, bufferIndex, b.auth); err != nil {
		return nil, fmt.Errorf("attestation: %w", explain(err))
	}
	var response []byte
	for at := 0; at < bufferSize; at += int(b.chunk) {
		r, err := tpm2.NVRead{
			AuthHandle: b.handle(), NVIndex: tpm2.NamedHandle{Handle: bufferIndex, Name: b.name},
			Size: min(b.chunk, uint16(bufferSize-at)), Offset: uint16(at),
		}.Execute(b.tpm)
		if err != nil {
			return nil, fmt.Errorf("read the response: %w", err)
		}
		response = append(response, r.Data.Buffer...)
	}
	return response, nil
}

// explain says what to do about an error of the TPM.
func explain(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCCommandCode):
		return fmt.Errorf("%w: this TPM is no NitroTPM, or the kernel's resource manager does not know the command: use /dev/tpm0", err)
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("%w: the owner hierarchy of this TPM has a password: take it off (tpm2_changeauth -c owner)", err)
	case errors.Is(err, tpm2.TPMRCNVSpace), errors.Is(err, tpm2.TPMRCSize):
		return fmt.Errorf("%w: this TPM has no room for it: a NitroTPM has", err)
	}
	return err
}
