package nitro

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// KernelRNG is the source from which the kernel of a Nitro enclave feeds its random numbers: the module itself.
const KernelRNG = "nsm-hwrng"

// ClockSource is the clock that the hypervisor gives to enclaves on this architecture. Another one drifts, or can be had from elsewhere.
func ClockSource() string {
	if runtime.GOARCH == "arm64" {
		return "arch_sys_counter"
	}
	return "kvm-clock"
}

// Files in which the kernel says what it uses (Documentation/ABI/testing/sysfs-class-hw_random of older kernels, and
// sysfs-devices-system-clocksource... of Documentation/timers).
const (
	rngFile   = "class/misc/hw_random/rng_current"
	clockFile = "devices/system/clocksource/clocksource0/current_clocksource"
)

// Prepare checks what the keys rest on, and mixes the module's randomness into the kernel's. It needs root, /sys and /dev/random, so it
// comes before the sandbox. It returns the name of the module, that of the instance and the enclave.
func (d *Device) Prepare(ctx context.Context, clockSource string) (moduleID string, err error) {
	if moduleID, err = d.describe(ctx); err != nil {
		return "", err
	}
	if err := checkKernel("/sys", clockSource); err != nil {
		return "", err
	}
	random, err := d.random(ctx, 256)
	if err != nil {
		return "", err
	}
	defer clear(random)
	if err := mix("/dev/random", random); err != nil {
		return "", fmt.Errorf("mix the module's randomness into the kernel's: %w", err)
	}
	return moduleID, nil
}

// checkKernel compares what the kernel uses with what it has to use.
func checkKernel(sys, clockSource string) error {
	for _, c := range []struct{ what, file, want, next string }{
		{"random numbers of the kernel", rngFile, KernelRNG, "the kernel has to take them from the module: build nsm.ko into the image, or load it"},
		{"clock of the kernel", clockFile, clockSource, "the image was built for another machine: --clock-source says which clock it needs"},
	} {
		text, err := os.ReadFile(filepath.Join(sys, c.file))
		if err != nil {
			return fmt.Errorf("%s: %w: %s", c.what, err, c.next)
		}
		got := strings.TrimSpace(string(text))
		// A second after boot the kernel knows its clock better and drops that ending (arch/x86/kernel/tsc.c, clocksource_tsc_early).
		if strings.TrimSuffix(got, "-early") != c.want {
			return fmt.Errorf("%s: come from %.64q and not from %q: %s", c.what, got, c.want, c.next)
		}
	}
	return nil
}

func mix(path string, random []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(random); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(file.Fd()), unix.RNDRESEEDCRNG, 0) // at once, and not within minutes
}
