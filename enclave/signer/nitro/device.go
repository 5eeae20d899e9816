package nitro

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hf/nsm"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/signer"
)

// DevicePath is where the kernel's driver puts the Nitro Secure Module.
const DevicePath = "/dev/nsm"

// Ioctl is the one request of ioctl(2) that the device knows, NSM_IOCTL_RAW (include/uapi/linux/nsm.h). A sandbox has to
// leave it to the process.
const Ioctl = 0xc0200a00

// Device is an open Nitro Secure Module. It is opened before the process gives up its rights and works with the open descriptor from
// then on. The driver answers one request after the other, and so does this; it may be called concurrently.
type Device struct {
	session Session
	turn    chan struct{} // holds one token while nobody uses the session; never comes back after Close
}

// Session is what this package uses of an nsm.Session, for one caller at a time.
type Session interface {
	Send(request.Request) (response.Response, error)
	Close() error
}

// OpenDevice opens the module. The errors say what to do about them.
func OpenDevice() (*Device, error) {
	opened, err := nsm.OpenDefaultSession()
	if err == nil {
		return NewDevice(opened), nil
	}
	next := "is it a Nitro Secure Module?"
	switch {
	case errors.Is(err, os.ErrNotExist):
		next = "tier nitro is for Nitro Enclaves: run it in an image (raypher eif build) whose kernel has the driver (nsm.ko), or use --signer tpm"
	case errors.Is(err, os.ErrPermission):
		next = "start as root: the process becomes its own user after it has opened it"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		next = "the kernel has the driver, and this machine no module"
	}
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return nil, fmt.Errorf("%s: %w: %s", DevicePath, err, next)
}

// NewDevice is a module that somebody else has opened, or imitates: for tests, and whoever has the kernel's open device already.
func NewDevice(s Session) *Device {
	d := &Device{session: s, turn: make(chan struct{}, 1)}
	d.turn <- struct{}{}
	return d
}

// Close waits for a running request and closes the device.
func (d *Device) Close() error {
	if _, open := <-d.turn; !open {
		return nil
	}
	close(d.turn)
	return d.session.Close()
}

// advice says what to do about the module's errors (nsm_io::ErrorCode).
var advice = map[response.ErrorCode]string{
	response.ECInvalidArgument:  "the module and this program disagree about its requests: update the image",
	"InvalidIndex":              "the module has fewer registers than Nitro's: is it one?",
	response.ECReadOnlyIndex:    "the register is locked: something in this enclave used it before; start the enclave anew",
	response.ECInvalidOperation: "the module does not know the request: update the kernel's driver, or the image",
	response.ECBufferTooSmall:   "the kernel's driver has less room than documents need: update it",
	response.ECInputTooLarge:    "this program sent more than the module takes: that is a bug",
	response.ECInternalError:    "the module failed: try again; if it stays, start the enclave on another instance",
	response.ECInvalidResponse:  "the module failed: try again; if it stays, start the enclave on another instance",
}

// send sends one request and waits for the answer, until ctx ends; a request that was cut off goes on in the background, and the next
// one waits for it. Errors wrap ErrDevice, ErrClosed or that of ctx.
func (d *Device) send(ctx context.Context, what string, r request.Request) (*response.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	select {
	case _, open := <-d.turn:
		if !open {
			return nil, fmt.Errorf("%s: %w", what, signer.ErrClosed)
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", what, ctx.Err())
	}
	type outcome struct {
		response response.Response
		err      error
	}
	answered := make(chan outcome, 1)
	go func() {
		defer func() { d.turn <- struct{}{} }()
		answer, err := d.session.Send(r)
		answered <- outcome{answer, err}
	}()
	select {
	case o := <-answered:
		if o.err != nil {
			return nil, fmt.Errorf("%s: %w: %w", what, signer.ErrDevice, deviceError(o.err))
		}
		if o.response.Error != "" {
			return nil, fmt.Errorf("%s: %w: %s says %s: %s", what, signer.ErrDevice, DevicePath, o.response.Error, adviceFor(o.response.Error))
		}
		return &o.response, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

func adviceFor(code response.ErrorCode) string {
	if text, ok := advice[code]; ok {
		return text
	}
	return "an error that this program does not know: update the image"
}

// deviceError is the driver's own error in words (drivers/misc/nsm.c, nsm_dev_ioctl and nsm_sendrecv_msg_locked).
func deviceError(err error) error {
	var failed *nsm.ErrorIoctlFailed
	if !errors.As(err, &failed) {
		return fmt.Errorf("%s answers what is no answer: %w", DevicePath, err)
	}
	next := "look into the kernel's log"
	switch failed.Errno {
	case syscall.ETIMEDOUT:
		next = "the module does not answer: start the enclave anew"
	case syscall.EPERM, syscall.EACCES:
		next = "the sandbox of this process does not leave it the device: that is a bug"
	case syscall.EINVAL, syscall.ENOTTY:
		next = "it is not a Nitro Secure Module, or its driver is another one than Linux 6.8's or AWS's"
	case syscall.EMSGSIZE:
		next = "this program sent more than the driver takes: that is a bug"
	}
	return fmt.Errorf("%s: %w: %s", DevicePath, failed.Errno, next)
}

// missing is the error for an answer to another request than was sent.
func missing(what string) error {
	return fmt.Errorf("%s: %w: %s answered another request: start the enclave anew", what, signer.ErrDevice, DevicePath)
}

// describe checks that the module is one of Nitro's, and returns its name.
func (d *Device) describe(ctx context.Context) (moduleID string, err error) {
	const what = "describe the module"
	answer, err := d.send(ctx, what, &request.DescribeNSM{})
	if err != nil {
		return "", err
	}
	about := answer.DescribeNSM
	if about == nil {
		return "", missing(what)
	}
	if about.Digest != response.DigestSHA384 || about.MaxPCRs <= nitro.ConfigurationPCR {
		return "", fmt.Errorf("%s: %w: it has %d registers of %s, Nitro's have 32 of SHA384", what, signer.ErrDevice, about.MaxPCRs, about.Digest)
	}
	return about.ModuleID, nil
}

// random asks the module for n bytes.
func (d *Device) random(ctx context.Context, n int) ([]byte, error) {
	const what = "get randomness"
	bytes := make([]byte, 0, n)
	for len(bytes) < n {
		answer, err := d.send(ctx, what, &request.GetRandom{})
		if err != nil {
			return nil, err
		}
		if answer.GetRandom == nil {
			return nil, missing(what)
		}
		if len(answer.GetRandom.Random) == 0 {
			return nil, fmt.Errorf("%s: %w: %s returned none: start the enclave anew", what, signer.ErrDevice, DevicePath)
		}
		bytes = append(bytes, answer.GetRandom.Random[:min(n-len(bytes), len(answer.GetRandom.Random))]...)
		clear(answer.GetRandom.Random)
	}
	return bytes, nil
}

// register reads a register.
func (d *Device) register(ctx context.Context, index int) (value nitro.PCR, locked bool, err error) {
	what := fmt.Sprintf("read PCR%d", index)
	answer, err := d.send(ctx, what, &request.DescribePCR{Index: uint16(index)})
	if err != nil {
		return value, false, err
	}
	if answer.DescribePCR == nil || len(answer.DescribePCR.Data) != len(value) {
		return value, false, missing(what)
	}
	return nitro.PCR(answer.DescribePCR.Data), answer.DescribePCR.Lock, nil
}

// attest asks the module for a document.
func (d *Device) attest(ctx context.Context, what string, about *request.Attestation) ([]byte, error) {
	answer, err := d.send(ctx, what, about)
	if err != nil {
		return nil, err
	}
	if answer.Attestation == nil || len(answer.Attestation.Document) == 0 {
		return nil, missing(what)
	}
	return answer.Attestation.Document, nil
}
