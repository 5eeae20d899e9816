package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/controller/attestation"
	controller "github.com/raypher/raypher/controller/daemon"
	"github.com/raypher/raypher/controller/distribution"
	"github.com/raypher/raypher/startconf"
)

const (
	defaultListen     = ":7443"
	defaultListenHTTP = ":7444"
	defaultState      = "/var/lib/raypher-controller"
)

// flags are the options as the command line has them.
type flags struct {
	controller.Options
	operators, goldenKeys, ceilingKeys, verifyKeys, otherTLSKeys []string
	configurations                                               []string
	nitroRoot                                                    string
}

func (f *flags) add(set *pflag.FlagSet) {
	set.StringVar(&f.Listen, "listen", defaultListen, "address of gRPC, for enclaves, parents and operators")
	set.StringVar(&f.ListenHTTP, "listen-http", defaultListenHTTP, "address of HTTP and JSON, for the same callers, with /openapi.json, /healthz and /.well-known/jwks.json for everybody; empty: none")
	set.StringVar(&f.State, "state", defaultState, "folder of the keys and of the SQLite database; made if missing, mode 0700")
	set.StringVar(&f.Database, "database-url", "", "postgres://USER@HOST/NAME for replicas, or the path of a SQLite file (default "+controller.DatabaseFile+" in --state)")
	set.StringVar(&f.TLSKey, "tls-key", "", "key of the TLS certificate, P-256 in PEM, which hosts know by its hash (default "+controller.TLSKeyFile+" in --state)")
	set.StringVar(&f.SigningKey, "signing-key", "", "key that signs attestation results and records of TPM activations, P-256 in PEM (default "+controller.SignKeyFile+" in --state)")
	set.StringArrayVar(&f.verifyKeys, "verify-key", nil, "public key, PEM, that signed results before --signing-key or will after it: believed and published, and the configuration of an enclave may name it (may be repeated)")
	set.StringArrayVar(&f.otherTLSKeys, "other-tls-key", nil, "sha256:HEX of the --tls-key before or after this one, or the file of its public key: the configuration of an enclave may name it too (may be repeated)")
	set.StringVar(&f.SecretsKey, "secrets-key", "", "key with which values of secrets are encrypted in the database (default "+controller.SecretsFile+" in --state)")
	set.StringArrayVar(&f.operators, "operator", nil, "sha256:HEX of the TLS key of an operator, or the file of its public key (may be repeated; needed)")
	set.StringArrayVar(&f.goldenKeys, "golden-key", nil, "public key, PEM, that may sign golden measurements (may be repeated)")
	set.StringArrayVar(&f.ceilingKeys, "ceiling-key", nil, "public key, PEM, that may sign ceilings and policies: the configuration of an enclave may name no other operator_key (may be repeated)")
	set.StringArrayVar(&f.configurations, "configuration", nil, "start configuration (ibev.conf) that enclaves may have: each other one is refused, also for its ttl_seconds, rates, predecessor or kms_secret. Its caller_key is not looked at, as each host has its own (may be repeated)")
	set.StringVar(&f.nitroRoot, "nitro-root", "", "PEM of roots that are trusted INSTEAD of the AWS root: another partition's, or a laboratory's, which protects nothing")
	set.StringVar(&f.TPMRoots, "tpm-roots", "", "folder of the certificates of TPM makers; without it tier tpm is refused")
	set.BoolVar(&f.AllowSoftware, "allow-software", false, "take tier software too, whose evidence proves nothing about the place of a key")
	set.StringVar(&f.TrustDomain, "trust-domain", startconf.DefaultTrustDomain, "trust domain of the fleet: that of the configuration of its enclaves")
	set.StringVar(&f.Issuer, "issuer", "raypher-controller", "name of this controller in results (iss)")
	set.DurationVar(&f.Lifetime, "result-lifetime", attestation.DefaultLifetime, "lifetime of attestation results")
	set.DurationVar(&f.Offline, "offline", distribution.DefaultOffline, "how long a host may work on with its policies when the controller is away")
}

// options reads the files that the flags name.
func (f *flags) options() (*controller.Options, error) {
	o := f.Options
	if err := os.MkdirAll(o.State, 0o700); err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	for _, text := range f.operators {
		hash, err := keyHash(text)
		if err != nil {
			return nil, fmt.Errorf("--operator: %w", err)
		}
		o.Operators = append(o.Operators, hash)
	}
	for _, text := range f.otherTLSKeys {
		hash, err := keyHash(text)
		if err != nil {
			return nil, fmt.Errorf("--other-tls-key: %w", err)
		}
		o.OtherTLSKeys = append(o.OtherTLSKeys, hash)
	}
	var err error
	if o.GoldenKeys, err = publics("--golden-key", f.goldenKeys); err != nil {
		return nil, err
	}
	if o.CeilingKeys, err = publics("--ceiling-key", f.ceilingKeys); err != nil {
		return nil, err
	}
	former, err := publics("--verify-key", f.verifyKeys)
	if err != nil {
		return nil, err
	}
	for i, der := range former {
		key, err := controller.ParseP256(der)
		if err != nil {
			return nil, fmt.Errorf("--verify-key %s: %w", f.verifyKeys[i], err)
		}
		o.VerifyKeys = append(o.VerifyKeys, key)
	}
	for _, name := range f.configurations {
		c, err := startconf.Read(name)
		if err != nil {
			return nil, fmt.Errorf("--configuration: %w", err)
		}
		o.Configurations = append(o.Configurations, c)
	}
	if f.nitroRoot != "" {
		text, err := os.ReadFile(f.nitroRoot)
		if err != nil {
			return nil, fmt.Errorf("--nitro-root: %w", err)
		}
		if o.NitroRoots, err = nitro.ParseRoots(text); err != nil {
			return nil, fmt.Errorf("--nitro-root %s: %w", f.nitroRoot, err)
		}
	}
	if err := startconf.CheckTrustDomain(o.TrustDomain); err != nil {
		return nil, fmt.Errorf("--trust-domain %w", err)
	}
	if o.Offline < time.Minute {
		return nil, fmt.Errorf("--offline %s: at least a minute", o.Offline)
	}
	return &o, nil
}

// keyHash is a hash as it stands, or that of the public key in a file.
func keyHash(text string) (startconf.KeyHash, error) {
	if strings.HasPrefix(text, "sha256:") {
		return startconf.ParseKeyHash(text)
	}
	der, err := controller.ReadPublic(text)
	return sha256.Sum256(der), err
}

func publics(flag string, files []string) (keys [][]byte, err error) {
	for _, name := range files {
		der, err := controller.ReadPublic(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		keys = append(keys, der)
	}
	return keys, nil
}
