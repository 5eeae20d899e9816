package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/enclave/signer/tpm"
)

// chosen is the signer that the flags ask for, with what has to be opened before the sandbox. The process keeps the open
// descriptor of the TPM and no right to open another one.
type chosen struct {
	device        *tpm.Device // nil: tier software
	configuration tpm.Configuration
}

func chooseSigner(o *Options) (*chosen, error) {
	if o.Signer == "software" {
		if o.TPMDevice != "" {
			return nil, errors.New("--tpm-device: the signer is software: add --signer tpm")
		}
		return new(chosen), nil
	}
	if o.Signer != "tpm" {
		return nil, fmt.Errorf("--signer %q: use software or tpm", o.Signer)
	}
	if o.TPMDevice == "" {
		o.TPMDevice = DefaultTPM
	}
	configuration, err := tpm.ReadConfiguration(besideConfiguration(o.Config))
	if err != nil {
		return nil, err
	}
	device, err := tpm.OpenDevice(o.TPMDevice)
	if err != nil {
		return nil, err
	}
	return &chosen{device, configuration}, nil
}

// besideConfiguration is the path of tpm.conf, whether the start configuration was given as a file or as a folder.
func besideConfiguration(config string) string {
	if info, err := os.Stat(config); err == nil && !info.IsDir() {
		config = filepath.Dir(config)
	}
	return filepath.Join(config, tpm.ConfigurationFile)
}

// open opens the key, which is after the sandbox.
func (c *chosen) open(ctx context.Context, o Options) (signer.Signer, error) {
	if c.device == nil {
		key, made, err := software.Open(o.State)
		if err != nil {
			return nil, err
		}
		if made {
			o.Log.Warn("made a signing key of tier software: a file, which is no protection", "file", filepath.Join(o.State, software.KeyFile))
		}
		return key, nil
	}
	key, made, err := tpm.Open(ctx, tpm.Options{TPM: c.device, State: o.State, Configuration: c.configuration})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.device, err)
	}
	if made {
		o.Log.Info("made a signing key in the TPM", "device", c.device)
	}
	return key, nil
}

// leases is the counter of leases beside the key. Without one there is no credit; everything else works.
func (c *chosen) leases(ctx context.Context, o Options, key signer.Signer) lease.Anchor {
	anchor, err := c.findLeases(ctx, o, key)
	if err != nil {
		o.Log.Error("no credit can be granted: no counter of leases", "reason", err)
		return lease.None(key.Tier(), err)
	}
	return anchor
}

func (c *chosen) findLeases(ctx context.Context, o Options, key signer.Signer) (lease.Anchor, error) {
	switch key := key.(type) {
	case *software.Key:
		return lease.OpenSoftware(o.State)
	case *tpm.Key:
		anchor, made, err := key.Counter(ctx)
		if made && err == nil {
			o.Log.Info("made a counter of leases in the TPM: grants have to name it", "index", fmt.Sprintf("%#x", anchor.Index()), "anchor", fmt.Sprintf("sha256:%x", anchor.ID()))
		}
		return anchor, err
	}
	return nil, fmt.Errorf("tier %s has no counter of leases in this version", key.Tier())
}

// serve runs until it returns, or until the device is lost: the process cannot open it again, so it ends, and whoever
// started it starts it anew.
func (c *chosen) serve(ctx context.Context, run func(context.Context) error) error {
	if c.device == nil {
		return run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- run(ctx) }()
	select {
	case err := <-served:
		return err
	case <-c.device.Lost():
		cancel()
		return errors.Join(fmt.Errorf("%s: %w", c.device, tpm.ErrLost), <-served)
	}
}

// abandon closes what open has not taken.
func (c *chosen) abandon() {
	if c.device != nil {
		c.device.Close()
	}
}
