package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
)

// loaded is the key in the TPM, ready for use, and the session for it.
type loaded struct {
	handle  tpm2.TPMHandle
	fixed   bool // a persistent handle, which is not flushed
	name    tpm2.TPM2BName
	area    []byte // TPMT_PUBLIC
	session tpm2.Session
	end     func() error // flushes the session
}

// auth is the key with the session that authorises its use.
func (l *loaded) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: l.handle, Name: l.name, Auth: l.session}
}

// flush frees what the TPM holds for it. Errors mean that the TPM has forgotten it already.
func (l *loaded) flush(tpm transport.TPM) {
	if l.end != nil {
		_ = l.end()
	}
	if !l.fixed && l.handle != 0 {
		flush(tpm, l.handle)
	}
}

func flush(tpm transport.TPM, handle tpm2.TPMHandle) {
	_, _ = execute(tpm, tpm2.FlushContext{FlushHandle: handle})
}

// source is where the key comes from.
type source interface {
	load(transport.TPM) (*loaded, error)
}

// source finds out which key is meant, and makes one when there is none.
func (k *Key) source(tpm transport.TPM) (s source, made bool, err error) {
	c := &k.configuration
	switch {
	case c.KeyContext != nil:
		return contextSource{*c.KeyContext}, false, nil
	case c.KeyHandle != 0:
		return persistentSource{c.KeyHandle}, false, nil
	}
	path := filepath.Join(k.state, blobsFile)
	b, err := readBlobs(path)
	if err != nil || b != nil {
		return b, false, err
	}
	if k.area != nil {
		return nil, false, errors.New("its blobs are gone from the state folder: restore them, or start again for a new key")
	}
	return makeBlobs(tpm, path)
}

// makeBlobs makes a new key and keeps it at path.
func makeBlobs(tpm transport.TPM, path string) (b *blobs, made bool, err error) {
	if b, err = createBlobs(tpm); err != nil {
		return nil, false, err
	}
	b.path = path
	if made, err = b.write(path); err != nil {
		return nil, false, err
	}
	if !made { // another process was faster, and its key is the key
		b, err = readBlobs(path)
	}
	return b, made, err
}

// signingTemplate is the public area that a new key is asked for.
func signingTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true,
			NoDA: true, // or wrong passwords for other keys would stop the journal
		},
		Parameters: p256Parameters(),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func p256Parameters() tpm2.TPMUPublicParms {
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
		KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	})
}

// primary is a storage primary key: parent of the signing key, and what sessions are salted to.
type primary struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// makePrimary makes the primary key of a hierarchy, whose password must be empty: the owner's, where it is the same key each
// time, or the null hierarchy's, where it lives until the TPM is reset. A TPM that nobody has started is started, as the
// kernel does it too.
func makePrimary(tpm transport.TPM, hierarchy tpm2.TPMHandle) (*primary, error) {
	create := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}
	response, err := execute(tpm, create)
	if errors.Is(err, tpm2.TPMRCInitialize) {
		if _, err := execute(tpm, tpm2.Startup{StartupType: tpm2.TPMSUClear}); err != nil {
			return nil, fmt.Errorf("start the TPM: %w", err)
		}
		response, err = execute(tpm, create)
	}
	if err != nil {
		return nil, fmt.Errorf("make primary key: %w", err)
	}
	public, err := response.OutPublic.Contents()
	if err != nil {
		flush(tpm, response.ObjectHandle)
		return nil, fmt.Errorf("make primary key: %w", err)
	}
	return &primary{response.ObjectHandle, response.Name, *public}, nil
}

// nonceSize of sessions, in bytes.
const nonceSize = 16

// openSession starts the session of a loaded key: HMAC, salted to the primary, commands encrypted.
func (l *loaded) openSession(tpm transport.TPM, p *primary) (err error) {
	l.session, l.end, err = tpm2.HMACSession(tpm, tpm2.TPMAlgSHA256, nonceSize,
		tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptIn))
	if err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	return nil
}

// createBlobs makes a new key in the TPM.
func createBlobs(tpm transport.TPM) (*blobs, error) {
	p, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, p.handle)
	response, err := execute(tpm, tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
			tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptIn))},
		InPublic: tpm2.New2B(signingTemplate()),
	})
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	b := &blobs{Version: blobsVersion, Public: response.OutPublic.Bytes(), Private: response.OutPrivate.Buffer, Primary: p.name.Buffer}
	if _, err := attest.ParsePublic(b.Public, attest.SigningKey); err != nil {
		return nil, fmt.Errorf("make signing key: the TPM made another than it was asked for: %w", err)
	}
	return b, nil
}

// load implements source, with a session of its own.
func (b *blobs) load(tpm transport.TPM) (*loaded, error) {
	p, err := b.makeParent(tpm)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, p.handle)
	l := new(loaded)
	if err := l.openSession(tpm, p); err != nil {
		return nil, err
	}
	if err := b.loadUnder(tpm, p, l); err != nil {
		l.flush(tpm)
		return nil, err
	}
	return l, nil
}

// makeParent makes the primary key. It must be the one of the first start, which whoever sits between this process and the TPM
// cannot imitate.
func (b *blobs) makeParent(tpm transport.TPM) (*primary, error) {
	p, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p.name.Buffer, b.Primary) {
		flush(tpm, p.handle)
		return nil, fmt.Errorf("the key in %s is of another TPM, or this one was cleared: move the file away, then a new key is made", b.path)
	}
	return p, nil
}

// loadUnder loads the key into l, which has a session.
func (b *blobs) loadUnder(tpm transport.TPM, p *primary, l *loaded) error {
	response, err := execute(tpm, tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: l.session},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: b.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](b.Public),
	})
	if err != nil {
		return fmt.Errorf("load signing key: %w", err)
	}
	l.handle, l.name, l.area = response.ObjectHandle, response.Name, b.Public
	return nil
}

// persistentSource is a key that somebody has made persistent (tpm2_evictcontrol).
type persistentSource struct{ handle tpm2.TPMHandle }

func (s persistentSource) load(tpm transport.TPM) (*loaded, error) {
	return loadForeign(tpm, s.handle, true)
}

// contextSource is a key that tpm2_load has loaded and saved.
type contextSource struct{ context tpm2.TPMSContext }

func (s contextSource) load(tpm transport.TPM) (*loaded, error) {
	response, err := execute(tpm, tpm2.ContextLoad{Context: s.context})
	if err != nil {
		return nil, fmt.Errorf("key_context: %w: contexts end when the TPM is reset, as at each boot: run tpm2_load again, or make the key persistent with tpm2_evictcontrol and use key_handle", err)
	}
	return loadForeign(tpm, response.LoadedHandle, false)
}

// loadForeign prepares a key with an empty password that others have made.
func loadForeign(tpm transport.TPM, handle tpm2.TPMHandle, fixed bool) (*loaded, error) {
	l := &loaded{handle: handle, fixed: fixed}
	response, err := execute(tpm, tpm2.ReadPublic{ObjectHandle: handle})
	if err != nil {
		l.flush(tpm)
		return nil, fmt.Errorf("key %#x: %w: is there a key under this handle? See tpm2_getcap handles-persistent", uint32(handle), err)
	}
	l.name, l.area = response.Name, response.OutPublic.Bytes()
	p, err := makePrimary(tpm, tpm2.TPMRHNull)
	if err != nil {
		l.flush(tpm)
		return nil, err
	}
	defer flush(tpm, p.handle)
	if err := l.openSession(tpm, p); err != nil {
		l.flush(tpm)
		return nil, err
	}
	return l, nil
}
