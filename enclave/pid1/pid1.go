// Package pid1 is the first process of an enclave image that `raypher eif build` made: it mounts what the service needs, loads
// the modules of the image, tells the host that the enclave has started, runs the service as its only child, and resets the
// machine when that ends. cmd/raypher-enclave calls it when the kernel starts it as /init; images that nitro-cli builds have
// an init of AWS's for that, and never come here.
//
// It takes nothing from the kernel's command line: what the service is started with lies in the image, in the part that PCR2
// measures. A failure of any step ends the machine: an enclave that is half set up does not serve.
package pid1

import (
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Places in the ramdisks.
const (
	Init    = "/init"       // the service's program, which kernels start as their first process
	Orders  = "/start.json" // a Start
	Modules = "/modules"    // folder of kernel modules, loaded in the order of their names
)

// Is reports whether this process is the first one of an image, by the name and the number under which kernels start it. In a
// container the number is 1 too, but not the name.
func Is() bool { return os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == Init }

// Run does all of it and does not return: the machine is reset, after a word about why on the console.
func Run(console io.Writer) {
	err := run(console)
	if err == nil {
		err = fmt.Errorf("the service ended")
	}
	fmt.Fprintf(console, "raypher-enclave: init: %v: this enclave ends\n", err)
	Restart()
}

// Restart resets the machine, as AWS's init does; the hypervisor takes that for the end. If it fails it returns, and the first process
// ends with a panic of the kernel.
func Restart() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run(console io.Writer) error {
	start, err := ReadStart(Orders)
	if err != nil {
		return err
	}
	if err := SetUp(Modules); err != nil {
		return err
	}
	if start.HeartbeatCID != NoHeartbeat {
		if err := Heartbeat(start.HeartbeatCID); err != nil {
			return err
		}
	}
	return serve(start.Arguments, console)
}

// serve runs the service until it ends. The service cannot leave processes behind: its sandbox forbids making any.
func serve(arguments []string, console io.Writer) error {
	service := exec.Command(Init, arguments...)
	service.Args[0] = "raypher-enclave"
	service.Env = []string{"PATH=/"}
	service.Stdout, service.Stderr = console, console
	service.Dir = "/"
	if err := service.Run(); err != nil {
		return fmt.Errorf("the service: %w", err)
	}
	return nil
}
