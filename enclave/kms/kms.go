// Package kms gets secrets for an enclave of tier nitro from AWS KMS: values that were encrypted with a KMS key whose policy lets only
// attested enclaves decrypt (condition keys kms:RecipientAttestation:PCR0 and so on).
//
// For each call the enclave makes an RSA key, shows KMS a document of its Nitro Secure Module over that key, and gets the value encrypted
// to it. The parent carries bytes: TLS begins and ends here, and believes Amazon's roots alone. That connection is what makes an answer
// KMS's: the message in it authenticates nobody. The credentials of the call are those of the instance's role, from the instance's metadata
// service, and the parent may know them: they say who asks, and what an enclave is told does not follow from them.
//
// The formats are those of the KMS API (Decrypt with Recipient and CiphertextForRecipient; AWS JSON 1.1), Signature Version 4, and RFC 5652.
package kms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/raypher/raypher/startconf"
)

// keyBits is the size of the key that KMS encrypts to (RecipientInfo: "an RSA2048 key").
const keyBits = 2048

// Bounds of one call.
const (
	callTimeout = 30 * time.Second // for everything: key, document, credentials, KMS
	maxAnswer   = 16 << 10         // bytes
	maxHeaders  = 16 << 10         // bytes
	maxSaid     = 300              // bytes of an error message of KMS that are repeated
)

// ContextKey is the key of the encryption context under which a secret was encrypted; its value is the secret's name. So one secret's
// ciphertext is not taken for another's.
const ContextKey = "raypher-secret"

// ErrRefused says that KMS answered and does not decrypt: the policy, the key or the ciphertext does not allow it. What an enclave holds of
// such a secret is to be forgotten.
var ErrRefused = errors.New("KMS refused")

// Dial connects to host:port through the parent, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Attester makes a document about a key that KMS may encrypt to.
type Attester interface {
	AttestRecipient(context.Context, *rsa.PublicKey) (document []byte, err error)
}

// Client calls KMS. It may be used concurrently.
type Client struct {
	attester Attester
	role     *role
	kms      *http.Client
}

// Options of a client.
type Options struct {
	Dial     Dial
	Attester Attester
	// Roots are what KMS's certificate has to come from; nil: Roots(). Another service is for tests.
	Roots *x509.CertPool
}

// New makes a client that reaches KMS and the instance's metadata service by Dial.
func New(o Options) *Client {
	if o.Roots == nil {
		o.Roots = Roots()
	}
	return &Client{
		attester: o.Attester,
		role:     &role{web: httpClient(o.Dial, nil)},
		kms:      httpClient(o.Dial, &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12}),
	}
}

// httpClient uses nothing that the environment could say, follows nothing, and keeps nothing open.
func httpClient(dial Dial, config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: config, TLSHandshakeTimeout: callTimeout, ResponseHeaderTimeout: callTimeout,
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// The messages of API_Decrypt. Blobs are base64, which encoding/json makes of bytes.
type (
	decryptRequest struct {
		CiphertextBlob    []byte
		EncryptionContext map[string]string
		KeyId             string
		Recipient         recipientInfo
	}
	recipientInfo struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
	decryptReply struct {
		CiphertextForRecipient []byte
		KeyId                  string
		Plaintext              []byte
	}
	apiError struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
)

// Decrypt returns the secret's value. It takes at most 30 seconds. Errors wrap ErrRefused where KMS itself refuses.
func (c *Client) Decrypt(ctx context.Context, s startconf.KMSSecret) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	value, err := c.decrypt(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("secret %s from KMS: %w", s.Name, err)
	}
	return value, nil
}

func (c *Client) decrypt(ctx context.Context, s startconf.KMSSecret) ([]byte, error) {
	credentials, err := c.role.credentials(ctx)
	if err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, keyBits) // for this call only
	if err != nil {
		return nil, fmt.Errorf("make a key for the answer: %w", err)
	}
	document, err := c.attester.AttestRecipient(ctx, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(decryptRequest{
		CiphertextBlob: s.Ciphertext, EncryptionContext: map[string]string{ContextKey: s.Name}, KeyId: s.Key,
		Recipient: recipientInfo{AttestationDocument: document, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_256"},
	})
	if err != nil {
		return nil, err
	}
	answer, err := c.call(ctx, s, credentials, body)
	if err != nil {
		return nil, err
	}
	var reply decryptReply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return nil, fmt.Errorf("KMS's answer: %w", err)
	}
	switch {
	case len(reply.Plaintext) > 0:
		clear(reply.Plaintext)
		return nil, errors.New("KMS answered with the plaintext: it did not look at the attestation document: is it KMS?")
	case reply.KeyId != s.Key:
		return nil, fmt.Errorf("KMS answered for another key, %.100q", reply.KeyId)
	}
	sealed, err := parseEnvelope(reply.CiphertextForRecipient)
	if err != nil {
		return nil, err
	}
	return sealed.open(key)
}

// call sends one signed request to the region's KMS and returns the body of its answer.
func (c *Client) call(ctx context.Context, s startconf.KMSSecret, credentials aws.Credentials, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+s.Host()+"/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", "TrentService.Decrypt")
	hash := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, credentials, request, hex.EncodeToString(hash[:]), "kms", s.Region(), time.Now()); err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	status, answer, err := fetch(c.kms, request)
	if err != nil {
		return nil, fmt.Errorf("reach KMS: %w", err)
	}
	if status == http.StatusOK {
		return answer, nil
	}
	c.role.forget() // it may be about them
	var said apiError
	json.Unmarshal(answer, &said) // what is no JSON leaves it empty, and the status says the rest
	kind := said.Type[strings.LastIndexByte(said.Type, '#')+1:]
	next, final := refusals[kind]
	if !final {
		return nil, fmt.Errorf("KMS answered %d: %.*q: %.*q: it is asked again", status, maxSaid, kind, maxSaid, said.Message)
	}
	return nil, fmt.Errorf("%w: %s: %.*q: %s", ErrRefused, kind, maxSaid, said.Message, next)
}

// refusals are the errors of API_Decrypt, and those common to all calls, that say no. All others, also those about credentials, which the
// parent can spoil, may be different the next time.
var refusals = map[string]string{
	"AccessDeniedException":      "the key's policy, or that of the instance's role, does not allow this image or configuration",
	"DisabledException":          "the key is disabled",
	"IncorrectKeyException":      "the value was encrypted with another key",
	"InvalidCiphertextException": "the value is damaged, or was encrypted without --encryption-context " + ContextKey + "=NAME",
	"InvalidKeyUsageException":   "the key is not for encryption",
	"KMSInvalidStateException":   "the key is not enabled",
	"NotFoundException":          "there is no such key in this account and region",
}

// fetch does one request and reads the answer, which is bounded.
func fetch(client *http.Client, request *http.Request) (status int, body []byte, err error) {
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, nil, err
	case len(body) > maxAnswer:
		return 0, nil, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	return response.StatusCode, body, nil
}
