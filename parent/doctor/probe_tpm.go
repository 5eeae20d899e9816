package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// DefaultTPM is the kernel's device of a TPM 2.0, which it shares among processes.
const DefaultTPM = "/dev/tpmrm0"

// tpmTimeout bounds all questions to a TPM: one that works answers each within milliseconds.
const tpmTimeout = 5 * time.Second

var errNoAnswer = errors.New("no answer")

// TPM is what a TPM says of itself. Nothing in it is changed by asking.
type TPM struct {
	Device string
	Named  bool  // the operator named the device
	Err    error // it could not be opened or asked; wraps fs.ErrNotExist where there is none
	Group  string
	Mode   fs.FileMode // of the device

	Manufacturer string // as its maker registered: IFX, NTC, STM, INTC, AMD
	Model        string
	Firmware     string
	Revision     string // of the specification

	InLockout       bool
	LockoutCounter  uint32
	MaxTries        uint32
	LockoutInterval time.Duration // after which the counter falls by one
	LockoutRecovery time.Duration // after which the lockout's own password may be tried again

	Clock            time.Duration // for which it has been powered, over all boots
	Resets, Restarts uint32
	Safe             bool // Clock has never gone back

	Banks []string // with PCRs allocated
	EKs   []uint32 // NV indices of EK certificates
}

// lookAtTPM asks the TPM at a device or a simulator's socket; empty: DefaultTPM.
func (f *Findings) lookAtTPM(device string) {
	f.TPM = &TPM{Device: device, Named: device != ""}
	if device == "" {
		f.TPM.Device = DefaultTPM
	}
	answer, asked := make(chan *TPM, 1), *f.TPM
	go func() { // a driver that hangs cannot be told to stop
		asked.Err = asked.ask()
		answer <- &asked
	}()
	select {
	case f.TPM = <-answer:
	case <-time.After(tpmTimeout):
		f.TPM.Err = fmt.Errorf("%s: %w for %s", f.TPM.Device, errNoAnswer, tpmTimeout)
		if info, err := os.Stat(f.TPM.Device); err == nil {
			f.TPM.Mode = info.Mode()
		}
	}
}

func (t *TPM) ask() (err error) {
	defer func() {
		if r := recover(); r != nil { // in the library, over garbage
			err = fmt.Errorf("%s: its answer cannot be read: %v", t.Device, r)
		}
	}()
	info, err := os.Stat(t.Device)
	if err != nil {
		return err
	}
	t.Mode = info.Mode()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		t.Group = strconv.FormatUint(uint64(s.Gid), 10)
		if g, err := user.LookupGroupId(t.Group); err == nil {
			t.Group = g.Name
		}
	}
	open := linuxtpm.Open
	if t.Mode&os.ModeSocket != 0 {
		open = linuxudstpm.Open
	}
	tpm, err := open(t.Device)
	if err != nil {
		return err
	}
	defer tpm.Close()
	return errors.Join(t.askProperties(tpm), t.askClock(tpm), t.askBanks(tpm), t.askCertificates(tpm))
}

func capability(tpm transport.TPM, what tpm2.TPMCap, from, count uint32) (*tpm2.TPMUCapabilities, error) {
	r, err := tpm2.GetCapability{Capability: what, Property: from, PropertyCount: count}.Execute(tpm)
	if err != nil {
		return nil, err
	}
	return &r.CapabilityData.Data, nil
}

// askProperties reads the fixed and the variable properties (Part 2, 6.13).
func (t *TPM) askProperties(tpm transport.TPM) error {
	values := map[tpm2.TPMPT]uint32{}
	for _, first := range []tpm2.TPMPT{tpm2.TPMPTRevision, tpm2.TPMPTPermanent} {
		data, err := capability(tpm, tpm2.TPMCapTPMProperties, uint32(first), 0x20)
		if err != nil {
			return fmt.Errorf("properties: %w", err)
		}
		list, err := data.TPMProperties()
		if err != nil {
			return fmt.Errorf("properties: %w", err)
		}
		for _, p := range list.TPMProperty {
			values[p.Property] = p.Value
		}
	}
	text := func(first tpm2.TPMPT, n tpm2.TPMPT) string {
		var b []byte
		for i := range n {
			b = binary.BigEndian.AppendUint32(b, values[first+i])
		}
		return strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, string(b)))
	}
	t.Manufacturer, t.Model = text(tpm2.TPMPTManufacturer, 1), text(tpm2.TPMPTVendorString1, 4)
	one, two := values[tpm2.TPMPTFirmwareVersion1], values[tpm2.TPMPTFirmwareVersion1+1]
	t.Firmware = fmt.Sprintf("%d.%d.%d.%d", one>>16, one&0xffff, two>>16, two&0xffff)
	t.Revision = fmt.Sprintf("%d.%02d", values[tpm2.TPMPTRevision]/100, values[tpm2.TPMPTRevision]%100)
	const inLockout = 1 << 9 // TPMA_PERMANENT (Part 2, 8.6)
	t.InLockout = values[tpm2.TPMPTPermanent]&inLockout != 0
	t.LockoutCounter, t.MaxTries = values[tpm2.TPMPTLockoutCounter], values[tpm2.TPMPTMaxAuthFail]
	t.LockoutInterval = time.Duration(values[tpm2.TPMPTLockoutInterval]) * time.Second
	t.LockoutRecovery = time.Duration(values[tpm2.TPMPTLockoutRecovery]) * time.Second
	return nil
}

func (t *TPM) askClock(tpm transport.TPM) error {
	r, err := tpm2.ReadClock{}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	c := r.CurrentTime.ClockInfo
	t.Clock, t.Resets, t.Restarts, t.Safe = time.Duration(c.Clock)*time.Millisecond, c.ResetCount, c.RestartCount, bool(c.Safe)
	return nil
}

var bankNames = map[tpm2.TPMIAlgHash]string{
	tpm2.TPMAlgSHA1: "sha1", tpm2.TPMAlgSHA256: "sha256", tpm2.TPMAlgSHA384: "sha384", tpm2.TPMAlgSHA512: "sha512",
}

func (t *TPM) askBanks(tpm transport.TPM) error {
	data, err := capability(tpm, tpm2.TPMCapPCRs, 0, 1)
	if err != nil {
		return fmt.Errorf("PCR banks: %w", err)
	}
	list, err := data.AssignedPCR()
	if err != nil {
		return fmt.Errorf("PCR banks: %w", err)
	}
	for _, s := range list.PCRSelections {
		if !slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 }) {
			continue
		}
		name, known := bankNames[s.Hash]
		if !known {
			name = fmt.Sprintf("algorithm %#x", uint16(s.Hash))
		}
		t.Banks = append(t.Banks, name)
	}
	return nil
}

// askCertificates lists the NV indices where EK certificates lie (EK Credential Profile, 2.2.1.4 and 2.2.1.5).
func (t *TPM) askCertificates(tpm transport.TPM) error {
	const first, last = 0x01c00002, 0x01c0001f
	data, err := capability(tpm, tpm2.TPMCapHandles, first, last-first+1)
	if err != nil {
		return fmt.Errorf("EK certificates: %w", err)
	}
	list, err := data.Handles()
	if err != nil {
		return fmt.Errorf("EK certificates: %w", err)
	}
	templates := []tpm2.TPMHandle{0x01c00003, 0x01c00004, 0x01c0000b, 0x01c0000c} // nonces and templates, no certificates
	for _, h := range list.Handle {
		if h <= last && !slices.Contains(templates, h) {
			t.EKs = append(t.EKs, uint32(h))
		}
	}
	return nil
}
