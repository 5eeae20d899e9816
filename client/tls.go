package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// ErrTLS: asked to sign something else than the handshake of a TLS 1.3 client.
var ErrTLS = errors.New("the key signs handshakes of TLS 1.3 clients only")

// clientPrefix is what precedes the transcript hash in what the client of a TLS 1.3 handshake signs (RFC 8446 section 4.4.3).
var clientPrefix = append(bytes.Repeat([]byte(" "), 64), "TLS 1.3, client CertificateVerify\x00"...)

// TLSKey is the calling agent's TLS key. It lies in the signer of the enclave, inside the TPM on tier tpm, and never leaves it. It is
// a crypto.Signer and crypto.MessageSigner that crypto/tls takes as a private key; TLSConfig and ClientCertificate put it to use.
//
// It signs one thing: handshakes of TLS 1.3 as their client. What goes to the enclave is the transcript hash, and the enclave builds what
// is signed around it. That is why only SignMessage works: the digest that Sign is given could be of anything.
type TLSKey struct {
	client *Client
	public crypto.PublicKey
	ctx    context.Context // crypto.Signer has none
}

var _ crypto.MessageSigner = (*TLSKey)(nil)

// Public implements crypto.Signer: an *ecdsa.PublicKey on P-256.
func (k *TLSKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer and always fails with ErrTLS.
func (k *TLSKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fmt.Errorf("tls key: %w: a digest may be of anything; use crypto/tls of Go 1.25 or later", ErrTLS)
}

// SignMessage implements crypto.MessageSigner. The message is what RFC 8446 section 4.4.3 prescribes for a client, as crypto/tls makes it;
// anything else is ErrTLS.
func (k *TLSKey) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	transcript, found := bytes.CutPrefix(message, clientPrefix)
	if !found || len(transcript) != sha256.Size && len(transcript) != sha512.Size384 || opts.HashFunc() != crypto.SHA256 {
		return nil, fmt.Errorf("tls key: %w", ErrTLS)
	}
	reply, err := k.client.agent.TLSSign(k.ctx, &parentv1.AgentTLSSignRequest{TranscriptHash: transcript})
	if err != nil {
		return nil, explain("tls key: sign", err)
	}
	return reply.Signature, nil
}

// ClientCertificate asks for a certificate of the caller's SPIFFE ID, whose private key is a TLSKey. It ends with the agent's visa.
// Refused, with ErrBeyond, where the operator's ceiling does not say tls_keys: true for the agent. ctx ends the certificate's
// signing too.
func (c *Client) ClientCertificate(ctx context.Context) (*tls.Certificate, error) {
	reply, err := c.agent.TLSCertificate(ctx, &parentv1.AgentTLSCertificateRequest{})
	if err != nil {
		return nil, explain("tls certificate", err)
	}
	if len(reply.Chain) == 0 {
		return nil, errors.New("tls certificate: raypherd sent none")
	}
	leaf, err := x509.ParseCertificate(reply.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("tls certificate: %w", err)
	}
	return &tls.Certificate{
		Certificate: reply.Chain, Leaf: leaf, PrivateKey: &TLSKey{c, leaf.PublicKey, ctx},
		SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}, nil
}

// TLSConfig returns a configuration for clients of mutual TLS, with base's other settings (nil: none): TLS 1.3, and the agent's
// certificate, asked for at the first connection and again when two thirds of its life are over. ctx is for these questions.
func (c *Client) TLSConfig(ctx context.Context, base *tls.Config) *tls.Config {
	config := base.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	config.MinVersion = tls.VersionTLS13
	held := &heldCertificate{client: c, ctx: ctx}
	config.GetClientCertificate = held.get
	return config
}

// heldCertificate keeps a certificate while it is young.
type heldCertificate struct {
	client *Client
	ctx    context.Context

	mu          sync.Mutex
	certificate *tls.Certificate
	renewAt     time.Time
}

func (h *heldCertificate) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.certificate != nil && now.Before(h.renewAt) {
		return h.certificate, nil
	}
	certificate, err := h.client.ClientCertificate(h.ctx)
	if err != nil {
		return nil, err
	}
	h.certificate, h.renewAt = certificate, now.Add(certificate.Leaf.NotAfter.Sub(now)*2/3)
	return certificate, nil
}
