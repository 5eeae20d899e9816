// Package machine boots an enclave image in QEMU as a Nitro hypervisor would: the kernel, command line and ramdisks that the image holds, a
// vsock device, and the laboratory's Nitro Secure Module, with the registers that package attest/eif measures. The command
// lab/nitro-lab is for people; tests use this package.
//
// Nothing of it is an enclave: whoever runs it reads the machine's memory.
package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/lab/nsm"
	"github.com/raypher/raypher/lab/vhostuser"
)

// Programs that a machine needs: QEMU 10.2 or newer, for vhost-user-test-device, and vhost-device-vsock of rust-vmm.
const (
	QEMU  = "qemu-system-x86_64"
	Vsock = "vhost-device-vsock"
)

// guestCID is the machine's vsock context id, and HostCID the one under which it reaches its host.
const (
	guestCID = 16
	HostCID  = 2
)

// startLimit bounds the start of the programs around the machine.
const startLimit = 20 * time.Second

// nsmDevice is the virtio id of Nitro Secure Modules (drivers/misc/nsm.c, id_table).
const nsmDevice = 33

// Options of a machine.
type Options struct {
	Image   []byte    // in the Enclave Image Format
	Before  *Machine  // whose module's root vouches for this one's too, as for an enclave that is started anew; nil: a root of its own
	Folder  string    // for sockets; private, its path short enough for one (sun_path, 108 bytes)
	Memory  int       // in MiB; 0: 512
	Console io.Writer // what the machine says; nil: nowhere
	Log     io.Writer // what the programs around it say; nil: nowhere
	QEMU    string    // path; empty: QEMU in PATH
	Vsock   string    // path; empty: Vsock in PATH
}

// Machine is one running machine.
type Machine struct {
	// Module is its Nitro Secure Module.
	Module *nsm.Module
	// Measurements are those of the image.
	Measurements eif.Measurements

	options Options
	cancel  context.CancelFunc
	around  sync.WaitGroup // the module's server and the vsock device
	writing sync.Mutex
	done    chan struct{} // closed when QEMU has ended
	err     error         // how it ended
}

// Start starts a machine, which ends with ctx. Whoever starts one calls Wait or Close.
func Start(ctx context.Context, o Options) (*Machine, error) {
	image, err := eif.Parse(o.Image)
	if err != nil {
		return nil, err
	}
	if o.Memory == 0 {
		o.Memory = 512
	}
	options := nsm.Options{Image: image.Measurements}
	if o.Before != nil {
		options.Before = o.Before.Module
	}
	module, err := nsm.New(options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{Module: module, Measurements: image.Measurements, options: o, cancel: cancel, done: make(chan struct{})}
	if err := m.start(ctx, image); err != nil {
		cancel()
		m.around.Wait()
		return nil, err
	}
	return m, nil
}

// VsockPath is the socket at which the machine's ports can be reached: connect, write "CONNECT 5000\n", read "OK ...\n" (the hybrid vsock of
// Firecracker, which vhost-device-vsock speaks).
func (m *Machine) VsockPath() string { return m.path("vsock") }

// listenerPath is where a program of the host listens for connections of the machine to HostCID and a port. The socket has to be there before
// the machine connects.
func listenerPath(folder string, port uint32) string {
	return filepath.Join(folder, "vsock_"+strconv.FormatUint(uint64(port), 10))
}

func (m *Machine) path(name string) string { return filepath.Join(m.options.Folder, name) }

// Wait waits for the machine's end.
func (m *Machine) Wait() error {
	<-m.done
	m.cancel()
	m.around.Wait()
	return m.err
}

// Close ends the machine.
func (m *Machine) Close() error {
	m.cancel()
	<-m.done
	m.around.Wait()
	return nil
}

func (m *Machine) start(ctx context.Context, image *eif.Image) error {
	if err := errors.Join(
		os.WriteFile(m.path("kernel"), image.Kernel(), 0o600),
		os.WriteFile(m.path("ramdisks"), bytes.Join(image.Ramdisks(), nil), 0o600),
	); err != nil {
		return err
	}
	if err := m.startModule(ctx); err != nil {
		return err
	}
	if err := m.startVsock(ctx); err != nil {
		return err
	}
	return m.startQEMU(ctx, image.CommandLine())
}

// startModule serves the module to the machine, which connects once.
func (m *Machine) startModule(ctx context.Context) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: m.path("nsm"), Net: "unix"})
	if err != nil {
		return fmt.Errorf("the module's socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	m.around.Add(1)
	go func() {
		defer m.around.Done()
		defer stop()
		conn, err := listener.AcceptUnix()
		listener.Close()
		if err != nil {
			return
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		device := vhostuser.Device{Answer: m.Module.Answer, MaxRequest: nsm.MaxRequest}
		if err := vhostuser.Serve(conn, device); err != nil && ctx.Err() == nil {
			fmt.Fprintf(m.inTurn(m.options.Log), "module: %v\n", err)
		}
	}()
	return nil
}

func (m *Machine) startVsock(ctx context.Context) error {
	command := m.command(ctx, m.options.Vsock, Vsock, "--guest-cid", strconv.Itoa(guestCID), "--socket", m.path("vsock-device"), "--uds-path", m.VsockPath())
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", Vsock, err)
	}
	ended := make(chan error, 1)
	m.around.Add(1)
	go func() {
		defer m.around.Done()
		ended <- command.Wait()
	}()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) { // it listens once its socket is there
		if _, err := os.Stat(m.path("vsock-device")); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended: %v", Vsock, err)
		default:
		}
		if time.Since(began) > startLimit {
			return fmt.Errorf("%s does not listen after %s", Vsock, startLimit)
		}
	}
}

func (m *Machine) startQEMU(ctx context.Context, commandLine string) error {
	size := strconv.Itoa(m.options.Memory) + "M"
	command := m.command(ctx, m.options.QEMU, QEMU,
		"-global", "virtio-mmio.force-legacy=false", "-M", "microvm,acpi=on,memory-backend=ram", "-accel", "tcg", "-cpu", "max", "-m", size,
		"-object", "memory-backend-memfd,id=ram,size="+size+",share=on", "-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio",
		"-chardev", "socket,id=vsock,path="+m.path("vsock-device"), "-device", "vhost-user-vsock-device,chardev=vsock",
		"-chardev", "socket,id=nsm,path="+m.path("nsm"), "-device", fmt.Sprintf("vhost-user-test-device,chardev=nsm,virtio-id=%d,num_vqs=1", nsmDevice),
		"-kernel", m.path("kernel"), "-initrd", m.path("ramdisks"), "-append", commandLine+hostClock())
	command.Stdout = m.inTurn(m.options.Console)
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", QEMU, err)
	}
	go func() {
		m.err = command.Wait()
		close(m.done)
	}()
	return nil
}

// command is a program that ends with ctx, and with this process.
func (m *Machine) command(ctx context.Context, path, name string, arguments ...string) *exec.Cmd {
	if path == "" {
		path = name
	}
	c := exec.CommandContext(ctx, path, arguments...)
	c.Stderr = m.inTurn(m.options.Log)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.WaitDelay = time.Second
	return c
}

// turns lets what several programs say be written by one at a time: console and log may be the same writer.
type turns struct {
	writing *sync.Mutex
	to      io.Writer
}

func (t turns) Write(text []byte) (int, error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.to.Write(text)
}

func (m *Machine) inTurn(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return turns{&m.writing, w}
}

// hostClock tells the kernel how fast the counter of an emulated processor is, which is this machine's, and not to compare it with slower
// clocks: on a loaded host it measures for good, or takes the counter for a broken one. It is the one thing that the laboratory
// adds to the image's command line, which PCRs do not cover then.
func hostClock() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "cpu MHz" {
			continue
		}
		if mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
			return fmt.Sprintf(" tsc_early_khz=%d tsc=reliable", int(mhz*1000))
		}
	}
	return ""
}
