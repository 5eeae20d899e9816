package tpm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/signer"
)

// Timing is how long one operation of the TPM took, over all rounds.
type Timing struct {
	Operation        string
	Rounds           int
	Min, Median, P99 time.Duration
	Why              string // what the time is spent on
}

// Bounds of a benchmark.
const (
	MaxRounds = 1000
	// maxIncrements bounds the wear: NV memory of a chip is good for about 100,000 writes of a cell, and counters
	// are spread over RAM by some chips only.
	maxIncrements = 20
)

// benchmarkIndex is the NV index of the counter that the benchmark makes and removes, in the range for owners (Registry of
// Reserved TPM 2.0 Handles, 2.2.2).
const benchmarkIndex = 0x01800b01

// Benchmark measures the key and the TPM: sign, making the AK, the quote alone, evidence (an AK, certify, quote and reads), and
// increments of an NV counter, which it makes for this and removes again. Nothing else signs meanwhile. What fails is in the error,
// beside the timings of the rest.
func (k *Key) Benchmark(ctx context.Context, rounds int) ([]Timing, error) {
	if rounds < 1 || rounds > MaxRounds {
		return nil, fmt.Errorf("benchmark: %d rounds, use 1 to %d", rounds, MaxRounds)
	}
	digest := make([]byte, signer.DigestSize)
	rand.Read(digest) // never fails (crypto/rand)
	var (
		out    []Timing
		failed error
	)
	for _, o := range []struct {
		name, why string
		run       func(context.Context) error
	}{
		{"sign", "one P-256 signature and the session around it: the pace of group commits", func(ctx context.Context) error { _, err := k.Sign(ctx, digest); return err }},
		{"make attestation key", "a primary key is derived anew each time: a search for a P-256 key", k.benchmarkAK},
		{"evidence", "an attestation key, two signatures, and a dozen reads: once a start and per request", func(ctx context.Context) error {
			_, err := k.Evidence(ctx, digest[:attest.MinNonceSize], signer.Binding{})
			return err
		}},
	} {
		times, err := repeat(ctx, rounds, o.run)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("benchmark: %s: %w", o.name, err))
			continue
		}
		out = append(out, timing(o.name, o.why, times))
	}
	if times, err := k.benchmarkQuote(ctx, digest, rounds); err != nil {
		failed = errors.Join(failed, fmt.Errorf("benchmark: quote: %w", deviceError(err)))
	} else {
		out = append(out, timing("quote", "the PCRs hashed and one P-256 signature over them", times))
	}
	if times, err := k.benchmarkCounter(ctx, min(rounds, maxIncrements)); err != nil {
		failed = errors.Join(failed, fmt.Errorf("benchmark: NV counter: %w", deviceError(err)))
	} else {
		out = append(out, timing("NV increment", "a write of NV memory, which chips slow down to save it: once a lease", times))
	}
	return out, failed
}

func repeat(ctx context.Context, rounds int, run func(context.Context) error) ([]time.Duration, error) {
	times := make([]time.Duration, rounds)
	for i := range times {
		began := time.Now()
		if err := run(ctx); err != nil {
			return nil, err
		}
		times[i] = time.Since(began)
	}
	return times, nil
}

func timing(operation, why string, times []time.Duration) Timing {
	slices.Sort(times)
	return Timing{operation, len(times), times[0], times[len(times)/2], times[len(times)*99/100], why}
}

func (k *Key) benchmarkAK(ctx context.Context) error {
	return k.owner.do(ctx, func(tpm transport.TPM) error {
		ak, err := makeAK(tpm)
		if err == nil {
			flush(tpm, ak.handle)
		}
		return err
	})
}

// benchmarkQuote quotes with an AK that is there already.
func (k *Key) benchmarkQuote(ctx context.Context, nonce []byte, rounds int) (times []time.Duration, err error) {
	selected := k.configuration.PCRs
	if len(selected) == 0 {
		selected = DefaultPCRs
	}
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		ak, err := makeAK(tpm)
		if err != nil {
			return err
		}
		defer flush(tpm, ak.handle)
		times, err = repeat(ctx, rounds, func(context.Context) error {
			_, err := execute(tpm, tpm2.Quote{
				SignHandle: ak.auth(tpm2.PasswordAuth(nil)), QualifyingData: tpm2.TPM2BData{Buffer: nonce},
				InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: selection(selected),
			})
			return err
		})
		return err
	})
	return times, err
}

// benchmarkCounter makes a counter, increments it and removes it.
func (k *Key) benchmarkCounter(ctx context.Context, rounds int) (times []time.Duration, err error) {
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		public := tpm2.TPMSNVPublic{
			NVIndex: benchmarkIndex, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
			Attributes: tpm2.TPMANV{NT: tpm2.TPMNTCounter, OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true, NoDA: true},
		}
		_, err := execute(tpm, tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(public)})
		if errors.Is(err, tpm2.TPMRCNVDefined) {
			return fmt.Errorf("%w: if it is of a benchmark that was cut off, remove it with tpm2_nvundefine -C o %#x", err, benchmarkIndex)
		}
		if err != nil {
			return err
		}
		index, err := execute(tpm, tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(benchmarkIndex)})
		if err != nil {
			return err
		}
		name := tpm2.NamedHandle{Handle: benchmarkIndex, Name: index.NVName}
		times, err = repeat(ctx, rounds, func(context.Context) error {
			_, err := execute(tpm, tpm2.NVIncrement{AuthHandle: owner, NVIndex: name})
			return err
		})
		_, removeErr := execute(tpm, tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: name})
		return errors.Join(err, removeErr)
	})
	return times, err
}

// Identify says which TPM this is and which attestation key it has, without a signing key. It closes the device.
func Identify(ctx context.Context, device transport.TPMCloser, c Configuration) (*attest.Identity, error) {
	k := withoutKey(device, c)
	defer k.Close()
	return k.Identity(ctx)
}

// AnswerChallenge activates a credential, without a signing key. It closes the device.
func AnswerChallenge(ctx context.Context, device transport.TPMCloser, c Configuration, m *attest.Message) ([]byte, error) {
	k := withoutKey(device, c)
	defer k.Close()
	return k.Activate(ctx, m.Credential, m.Secret)
}

// withoutKey is a signer that only talks about the TPM.
func withoutKey(device transport.TPMCloser, c Configuration) *Key {
	return &Key{configuration: c, owner: own(device, func(transport.TPM) {})}
}
