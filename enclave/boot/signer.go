package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/sandbox"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/nitro"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/enclave/signer/tpm"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/startconf"
)

// chosen is the signer that the flags ask for, with what has to be opened before the sandbox. The process keeps the open
// descriptor of the TPM or of the Nitro Secure Module and no right to open another one.
type chosen struct {
	device        *tpm.Device // tier tpm
	configuration tpm.Configuration
	module        *nitro.Device // tier nitro; both nil: tier software
}

func chooseSigner(ctx context.Context, o *Options) (*chosen, error) {
	if o.TPMDevice != "" && o.Signer != "tpm" {
		return nil, fmt.Errorf("--tpm-device: the signer is %s: use --signer tpm", o.Signer)
	}
	switch o.Signer {
	case "software":
		return new(chosen), nil
	case "tpm":
		return chooseTPM(o)
	case "nitro":
		return chooseNitro(ctx, o)
	}
	return nil, fmt.Errorf("--signer %q: use software, tpm or nitro", o.Signer)
}

// chooseNitro opens the module and checks what the kernel rests on.
func chooseNitro(ctx context.Context, o *Options) (*chosen, error) {
	module, err := nitro.OpenDevice()
	if err != nil {
		return nil, fmt.Errorf("signer nitro: %w", err)
	}
	clock := o.ClockSource
	if clock == "" {
		clock = nitro.ClockSource()
	}
	id, err := module.Prepare(ctx, clock)
	if err != nil {
		module.Close()
		return nil, fmt.Errorf("signer nitro: %w", err)
	}
	o.Log.Info("Nitro Secure Module", "module", id, "random_numbers", nitro.KernelRNG, "clock", clock)
	return &chosen{module: module}, nil
}

// confinement adds to the sandbox what the signer needs.
func (c *chosen) confinement(s *sandbox.Options, log *slog.Logger) {
	if c.module == nil {
		return
	}
	s.Ioctl = nitro.Ioctl
	// The image holds the program and the kernel's modules, which are public, and no other process but the first.
	s.WithoutLandlock = func(reason error) {
		log.Warn("no Landlock: this kernel leaves the process its files, which are those of the image", "reason", reason)
	}
}

func chooseTPM(o *Options) (*chosen, error) {
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
	return &chosen{device: device, configuration: configuration}, nil
}

// besideConfiguration is the path of tpm.conf, whether the start configuration was given as a file or as a folder.
func besideConfiguration(config string) string {
	if info, err := os.Stat(config); err == nil && !info.IsDir() {
		config = filepath.Dir(config)
	}
	return filepath.Join(config, tpm.ConfigurationFile)
}

// open opens the key, which is after the sandbox.
func (c *chosen) open(ctx context.Context, o Options, configuration journal.Hash) (signer.Signer, error) {
	if c.module != nil {
		return nitro.Open(ctx, c.module, configuration)
	}
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
// A controller has one for enclaves that have none; nil leaves it to that.
func (c *chosen) leases(ctx context.Context, o Options, key signer.Signer, configuration *startconf.Configuration) lease.Anchor {
	if configuration.Controller != "" && key.Tier() != journal.TierTPM {
		return nil
	}
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
	return nil, fmt.Errorf("tier %s has no counter of leases but a controller's, and the start configuration names none", key.Tier())
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
	if c.module != nil {
		c.module.Close()
	}
}
