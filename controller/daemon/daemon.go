// Package daemon puts a controller together: database, keys, services, front. cmd/raypher-controller gives it what its flags say.
package daemon

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/controller/attestation"
	"github.com/raypher/raypher/controller/distribution"
	"github.com/raypher/raypher/controller/fleet"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/lease"
	"github.com/raypher/raypher/controller/secret"
	"github.com/raypher/raypher/controller/server"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// Names of files in the state folder, where the options name no others.
const (
	DatabaseFile = "controller.db"
	TLSKeyFile   = "tls.key"
	SignKeyFile  = "signing.key"
	SecretsFile  = "secrets.key"
)

// Options of a controller. Files of keys that are empty lie in State.
type Options struct {
	Listen     string // host:port of gRPC
	ListenHTTP string // host:port of HTTP; empty: none
	State      string // folder of keys and of the SQLite database
	Database   string // url, or the path of a SQLite file; empty: in State
	TLSKey     string
	SigningKey string
	SecretsKey string
	VerifyKeys []*ecdsa.PublicKey // signing keys of before or after a change
	// OtherTLSKeys are those of before or after a change, which configurations of hosts may name.
	OtherTLSKeys []startconf.KeyHash

	Operators     []startconf.KeyHash
	GoldenKeys    [][]byte // PKIX DER
	CeilingKeys   [][]byte // PKIX DER
	NitroRoots    Roots
	TPMRoots      string // folder; empty: no TPM is trusted
	AllowSoftware bool
	// Configurations are those that hosts may have, but for their caller keys; none: whatever the other options allow.
	Configurations []*startconf.Configuration
	TrustDomain    string
	Issuer         string
	Lifetime       time.Duration // of results
	Offline        time.Duration // for which hosts work on without the controller
	Version        string
	Log            *slog.Logger
	// Ready is told the addresses that are served; nil: nobody is.
	Ready func(rpc, web net.Addr)
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	if len(o.Operators) == 0 {
		return errors.New("nobody could operate this controller: give --operator with the hash of a key that `raypher-controller keygen` has made")
	}
	if o.Database == "" {
		o.Database = filepath.Join(o.State, DatabaseFile)
	}
	db, err := store.Open(ctx, o.Database)
	if err != nil {
		return err
	}
	defer db.Close()
	keys, err := openKeys(&o, db.Kind() == "sqlite")
	if err != nil {
		return err
	}
	services, err := newServices(ctx, &o, db, keys)
	if err != nil {
		return err
	}
	front, err := newServer(&o, db, keys, services)
	if err != nil {
		return err
	}
	if err := announce(&o, db, keys); err != nil {
		return err
	}
	return serve(ctx, &o, front)
}

func serve(ctx context.Context, o *Options, front *server.Server) error {
	rpc, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	var web net.Listener
	var webAddress net.Addr
	where := "none"
	if o.ListenHTTP != "" {
		if web, err = net.Listen("tcp", o.ListenHTTP); err != nil {
			rpc.Close()
			return fmt.Errorf("--listen-http: %w", err)
		}
		webAddress = web.Addr()
		where = webAddress.String()
	}
	o.Log.Info("serving", "grpc", rpc.Addr(), "http", where)
	if o.Ready != nil {
		o.Ready(rpc.Addr(), webAddress)
	}
	if err := front.Serve(ctx, rpc, web); err != nil {
		return err
	}
	o.Log.Info("ended")
	return nil
}

// services are what a controller does.
type services struct {
	attestation  *attestation.Service
	secrets      *secret.Service
	leases       *lease.Service
	distribution *distribution.Service
	fleet        *fleet.Service
}

func newServices(ctx context.Context, o *Options, db *store.DB, keys *keys) (*services, error) {
	callers := &host.Callers{Operators: o.Operators, ResultKeys: keys.results.Public(), Now: time.Now}
	references := &attestation.References{Keys: o.GoldenKeys}
	tpmRoots, err := openTPMRoots(o.TPMRoots)
	if err != nil {
		return nil, err
	}
	s := &services{
		leases: lease.New(lease.Options{DB: db, Callers: callers}),
		distribution: distribution.New(distribution.Options{
			DB: db, Callers: callers, OperatorKeys: o.CeilingKeys, Offline: o.Offline,
		}),
		fleet: fleet.New(fleet.Options{DB: db, Callers: callers, References: references, AllowSoftware: o.AllowSoftware}),
	}
	s.attestation, err = attestation.New(attestation.Options{
		DB: db, Keys: keys.results, References: references, NitroRoots: o.NitroRoots, TPMRoots: tpmRoots, AllowSoftware: o.AllowSoftware,
		CeilingKeys: o.CeilingKeys, ControllerKeys: append([]startconf.KeyHash{keys.tls}, o.OtherTLSKeys...), Configurations: o.Configurations, TrustDomain: o.TrustDomain, Issuer: o.Issuer, Build: o.Version, Lifetime: o.Lifetime, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	s.secrets, err = secret.New(ctx, secret.Options{DB: db, Vault: keys.secrets, Callers: callers})
	return s, err
}

func (s *services) register(r grpc.ServiceRegistrar) {
	controllerv1.RegisterAttestationServer(r, s.attestation)
	controllerv1.RegisterSecretsServer(r, s.secrets)
	controllerv1.RegisterLeasesServer(r, s.leases)
	controllerv1.RegisterDistributionServer(r, s.distribution)
	controllerv1.RegisterFleetServer(r, s.fleet)
}

func newServer(o *Options, db *store.DB, keys *keys, s *services) (*server.Server, error) {
	jwks, err := result.JWKS(keys.results.Public())
	if err != nil {
		return nil, err
	}
	return server.New(server.Options{
		Certificate: keys.certificate, Register: s.register, JWKS: jwks, Log: o.Log,
		Healthy: func(ctx context.Context) error {
			return db.View(ctx, func(tx *store.Tx) error {
				var one int
				return tx.Get([]any{&one}, `SELECT 1`)
			})
		},
	})
}

// announce says in the log what this controller trusts, and what its hosts need to know of it.
func announce(o *Options, db *store.DB, k *keys) error {
	o.Log.Info("database", "kind", db.Kind())
	for _, operator := range o.Operators {
		o.Log.Info("trusts operator", "key", operator)
	}
	for _, key := range o.GoldenKeys {
		o.Log.Info("trusts golden key", "key", hashOf(key))
	}
	if len(o.GoldenKeys) == 0 {
		o.Log.Warn("no --golden-key: no measurements can be put in force, so evidence of tiers nitro and tpm will be refused")
	}
	for _, key := range o.CeilingKeys {
		o.Log.Info("trusts ceiling key", "key", hashOf(key))
	}
	if len(o.CeilingKeys) == 0 {
		o.Log.Warn("no --ceiling-key: enclaves whose configuration names an operator key will be refused")
	}
	if len(o.NitroRoots) == 0 {
		o.Log.Info("trusts Nitro root", "root", "AWS, commercial partition")
	}
	for _, root := range o.NitroRoots {
		o.Log.Warn("INSTEAD of the AWS root this root is trusted (--nitro-root): whoever holds it can make any evidence of tier nitro", "root", hashOf(root.Raw), "subject", root.Subject)
	}
	if o.TPMRoots == "" {
		o.Log.Info("no --tpm-roots: evidence of tier tpm will be refused")
	} else {
		o.Log.Info("trusts makers of TPMs", "folder", o.TPMRoots)
	}
	if o.AllowSoftware {
		o.Log.Warn("tier software is taken (--allow-software): its evidence proves nothing about the place of a key")
	}
	for _, key := range k.results.Public() {
		public, err := journal.NewKey(key)
		if err != nil {
			return err
		}
		o.Log.Info("for the start configuration of enclaves", "line", "controller_result_key = "+base64.StdEncoding.EncodeToString(public.PKIX()))
	}
	o.Log.Info("for the start configuration of enclaves", "line", "controller_key = "+k.tls.String())
	return nil
}
