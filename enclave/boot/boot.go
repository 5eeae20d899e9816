// Package boot brings the enclave process up: it reads the start configuration, opens the state folder and the listener as
// whoever started it, becomes its own user, gives up everything that serving does not need (package sandbox), and only then
// touches the signing key and serves. cmd/raypher-enclave calls it.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/raypher/raypher/enclave"
	"github.com/raypher/raypher/enclave/sandbox"
)

// Defaults of the flags.
const (
	DefaultListen = "unix:/run/raypher/enclave/enclave.sock"
	DefaultState  = "/var/lib/raypher/enclave"
	DefaultConfig = "/etc/raypher/enclave"
	DefaultPort   = 5000 // vsock
	ConfigPort    = 5001 // vsock, of the start configuration
	DefaultTPM    = "/dev/tpmrm0"
)

// Options of the process; the flags of the command describe them.
type Options struct {
	Listen           string
	State            string
	Config           string
	Development      bool
	User             string
	Signer           string
	TPMDevice        string // of the signer tpm; empty: DefaultTPM
	ClockSource      string // of the signer nitro: what the kernel's clock has to be; empty: that of Nitro's hypervisor
	NoSandbox        bool
	UntilStdinCloses bool
	Version          string
	Log              *slog.Logger
}

// Run serves until ctx ends, standard input closes where that was asked for, or serving fails.
func Run(ctx context.Context, o Options) error {
	key, err := chooseSigner(ctx, &o)
	if err != nil {
		return err
	}
	defer key.abandon()
	read, err := openConfiguration(o)
	if err != nil {
		return err
	}
	account, err := lookUp(o.User)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of this host: %w", err)
	}
	if o.State, err = filepath.Abs(o.State); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := privateFolder(o.State, account); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	listener, err := listen(o.Listen, account)
	if err != nil {
		return err
	}
	defer listener.Close()
	notify, err := openNotify()
	if err != nil {
		return err
	}
	defer notify.close()

	if err := confine(o, account, key); err != nil {
		return err
	}
	configuration, err := read(ctx)
	if err != nil {
		return err
	}
	signer, err := key.open(ctx, o, configuration.Hash())
	if err != nil {
		return err
	}
	defer signer.Close()
	server, err := enclave.New(enclave.Options{
		Signer: signer, Leases: key.leases(ctx, o, signer, configuration), Configuration: configuration, State: o.State, Host: host, Development: o.Development, Version: o.Version, Log: o.Log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.UntilStdinCloses {
		go func() {
			io.Copy(io.Discard, os.Stdin) // ends with the parent, however it ends
			cancel()
		}()
		fmt.Println("ready") // the listener has been open for a while: connecting works from here on
	}
	o.Log.Info("enclave ready", "tier", signer.Tier(), "listen", o.Listen, "uid", os.Getuid(), "trust_domain", configuration.TrustDomain, "version", o.Version)
	notify.send("READY=1")
	return key.serve(ctx, func(ctx context.Context) error { return server.Serve(ctx, listener) })
}

// confine takes the sandbox. After it this process can do little but serve.
func confine(o Options, account account, key *chosen) error {
	options := sandbox.Options{UID: account.uid, GID: account.gid, ReadWrite: []string{o.State}}
	key.confinement(&options, o.Log)
	err := sandbox.Enter(options)
	if err == nil {
		return nil
	}
	if o.NoSandbox && errors.Is(err, sandbox.ErrUnsupported) {
		o.Log.Error("RUNNING WITHOUT A SANDBOX, as --insecure-no-sandbox asked", "reason", err)
		return nil
	}
	return fmt.Errorf("sandbox: %w", err)
}
