package enclave

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/fleet"
	"github.com/raypher/raypher/enclave/kms"
	"github.com/raypher/raypher/enclave/kms/kmstest"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/lab/nsm"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// attesting is a signer with a module for KMS; the signer of tier nitro has both (enclave/signer/nitro.TestKMS).
type attesting struct {
	*software.Key
	module *nsm.Module
}

func (a attesting) AttestRecipient(_ context.Context, key *rsa.PublicKey) ([]byte, error) {
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	raw, err := cbor.Marshal((&request.Attestation{PublicKey: public}).Encoded())
	if err != nil {
		return nil, err
	}
	var answer response.Response
	if err := cbor.Unmarshal(a.module.Answer(raw), &answer); err != nil {
		return nil, err
	}
	return answer.Attestation.Document, nil
}

// A secret comes from KMS over connections that the parent carries, and is told by its name only.
func TestSecretsFromKMS(t *testing.T) {
	image := eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}}
	module, err := nsm.New(nsm.Options{Image: image})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := nitro.ParseRoots(module.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := nitro.NewVerifier(nitro.Config{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	aws := kmstest.Start(t, verifier, map[int]nitro.PCR{0: image.PCR0, 1: image.PCR1, 2: image.PCR2})
	r := serveWith(t, func(o *Options) {
		o.Signer, o.kmsRoots = attesting{o.Signer.(*software.Key), module}, aws.Roots()
		o.Configuration.KMSSecrets = []startconf.KMSSecret{{Name: "openai", Key: kmstest.Key, Ciphertext: aws.Encrypt("openai", []byte("sk-123"))}}
	})
	if _, err := r.Secret("openai"); !errors.Is(err, kms.ErrNoSecret) {
		t.Errorf("before: %v", err)
	}
	if _, err := r.Secret("other"); !errors.Is(err, fleet.ErrNoSecret) {
		t.Errorf("one that nobody has: %v", err)
	}
	client, _ := r.good(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go carry(ctx, client, aws.Dial)
	for {
		status, err := client.DescribeFleet(ctx, &enclavev1.DescribeFleetRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if names := status.GetSecrets(); len(names) == 1 && names[0] == "openai" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if value, err := r.Secret("openai"); err != nil || string(value) != "sk-123" {
		t.Errorf("%q, %v", value, err)
	}
}

// carry is a parent that connects the enclave to whatever dial reaches, until ctx ends.
func carry(ctx context.Context, client enclavev1.EnclaveClient, dial kms.Dial) {
	asked, err := client.Dial(ctx)
	if err != nil || asked.Send(&enclavev1.DialResult{}) != nil {
		return
	}
	for {
		r, err := asked.Recv()
		if err != nil {
			return
		}
		host, err := dial(ctx, "tcp", net.JoinHostPort(r.GetHost(), strconv.Itoa(int(r.GetPort()))))
		if err != nil {
			asked.Send(&enclavev1.DialResult{Number: r.GetNumber(), Error: err.Error()})
			continue
		}
		stream, err := client.Connect(ctx)
		if err != nil || stream.Send(&enclavev1.Bytes{Number: r.GetNumber()}) != nil {
			return
		}
		go func() { // outwards
			defer host.Close()
			for m, err := stream.Recv(); err == nil; m, err = stream.Recv() {
				if _, err := host.Write(m.GetChunk()); err != nil {
					return
				}
			}
		}()
		go func() { // inwards
			defer stream.CloseSend()
			for chunk := make([]byte, 4096); ; {
				n, err := host.Read(chunk)
				if n > 0 && stream.Send(&enclavev1.Bytes{Chunk: chunk[:n]}) != nil || err != nil {
					return
				}
			}
		}()
	}
}

// An enclave of another tier has nothing that KMS would take, and says so before it serves.
func TestKMSIsForNitro(t *testing.T) {
	dir := t.TempDir()
	key, _, err := software.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, hash := certificate(t)
	configuration := &startconf.Configuration{CallerKeys: []startconf.KeyHash{hash}, KMSSecrets: []startconf.KMSSecret{{Name: "a", Key: kmstest.Key, Ciphertext: []byte{1}}}}
	configuration.Defaults()
	_, err = New(Options{Signer: key, Configuration: configuration, State: dir, Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "KMS attests enclaves of tier nitro") {
		t.Error(err)
	}
}
