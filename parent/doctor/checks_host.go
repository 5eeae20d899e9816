package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const synchronise = "timedatectl set-ntp true, or start chronyd"

// maxClockError is how wrong a clock may be before visas of minutes suffer.
const maxClockError = time.Second

func checkClock(f *Findings) Check {
	c := Check{Name: "clock", Status: OK, Found: fmt.Sprintf("synchronised, at most %s wrong", f.Clock.MaxError.Round(time.Millisecond))}
	const consequence = "visas may look expired or not yet valid to those who verify them"
	switch {
	case f.Clock.Err != nil:
		c.Status, c.Found = Info, "unknown: "+f.Clock.Err.Error()
	case !f.Clock.Synchronised:
		c.Status, c.Found, c.Consequence, c.Fix = Warn, "not synchronised", consequence, synchronise
	case f.Clock.MaxError > maxClockError:
		c.Status, c.Consequence, c.Fix = Warn, consequence, synchronise
	}
	return c
}

// checkTimestamps finds a clock that is behind: files of the past cannot be of the future.
func checkTimestamps(f *Findings) Check {
	c := Check{Name: "clock skew", Status: OK, Found: "no file of the guard is of the future"}
	if ahead := f.Clock.Newest.Sub(f.Clock.Now); !f.Clock.Newest.IsZero() && ahead > maxClockError {
		c.Status = Warn
		c.Found = fmt.Sprintf("%s was written %s from now, so the clock is behind by at least that", f.Clock.NewestFile, ahead.Round(time.Second))
		c.Consequence = "visas are issued for the past and look expired elsewhere"
		c.Fix = synchronise
	}
	return c
}

func checkEntropy(f *Findings) Check {
	if !f.EntropyReady {
		return Check{Name: "random numbers", Status: Fail, Found: "the kernel's generator is not initialised yet", Consequence: "no key can be made", Fix: "wait a moment; in a VM, add a virtio-rng device"}
	}
	c := Check{Name: "random numbers", Status: OK, Found: "ready"}
	if f.EntropyDevice != "" && f.EntropyDevice != "none" {
		c.Found += ", hardware source " + f.EntropyDevice
	}
	return c
}

// Bounds of free space for the journal: a verdict with its proof takes about 1 KiB.
const (
	leastFree = 64 << 20
	niceFree  = 1 << 30
)

func checkDisk(f *Findings) Check {
	c := Check{Name: "disk", Status: OK, Found: fmt.Sprintf("%d MiB free for %s", f.FreeBytes>>20, f.StateDir)}
	switch {
	case f.FreeErr != nil:
		c.Status, c.Found = Info, "unknown: "+f.FreeErr.Error()
	case f.FreeBytes < leastFree:
		c.Status = Fail
	case f.FreeBytes < niceFree:
		c.Status = Warn
	}
	if c.Status == Fail || c.Status == Warn {
		c.Consequence, c.Fix = "what cannot be recorded is not granted: agents stop when the journal cannot be written", "free space, or move the state folder: raypherd --state-dir"
	}
	return c
}

func checkIPv6(f *Findings) Check {
	if f.IPv6 {
		return Check{Name: "IPv6", Status: OK, Found: "in use; governed like IPv4"}
	}
	return Check{Name: "IPv6", Status: Info, Found: "no address", Consequence: "nothing to govern until it is switched on; the guard covers it then too"}
}

func checkGroup(f *Findings) Check {
	c := Check{Name: "group " + f.Group, Status: OK, Found: "present"}
	switch {
	case !f.HasGroup:
		c.Status, c.Found, c.Consequence, c.Fix = Info, "missing", "only root can run agents", "groupadd --system "+f.Group+"; usermod -aG "+f.Group+" USER"
	case f.UID != 0 && !f.InGroup:
		c.Status, c.Found, c.Consequence, c.Fix = Warn, "present, this user is not in it", "this user cannot run agents", "usermod -aG "+f.Group+" USER, then log in again"
	}
	return c
}

func checkEnclaveUser(f *Findings) Check {
	if f.HasEnclaveUser {
		return Check{Name: "user raypher-enclave", Status: OK, Found: "present"}
	}
	return Check{Name: "user raypher-enclave", Status: Info, Found: "missing",
		Consequence: "a local enclave process runs under a number without a name",
		Fix:         "useradd --system --no-create-home --shell /usr/sbin/nologin raypher-enclave"}
}

func checkDaemon(f *Findings) Check {
	c := Check{Name: "raypherd", Status: OK}
	if s := f.Daemon.Status; s != nil {
		c.Found = fmt.Sprintf("version %s at %s, %d %s", s.GetVersion(), f.Daemon.Socket, s.GetAgents(), plural(uint64(s.GetAgents()), "agent", "agents"))
		c.Consequence = strings.Join(s.GetNotes(), "; ")
		return c
	}
	refused := errors.Is(f.Daemon.Err, syscall.EACCES) || status.Code(f.Daemon.Err) == codes.PermissionDenied
	absent := errors.Is(f.Daemon.Err, fs.ErrNotExist) || errors.Is(f.Daemon.Err, syscall.ECONNREFUSED)
	switch {
	case f.Daemon.Err == nil:
		c.Status, c.Found = Info, "not looked at"
	case absent && f.Daemon.Named:
		c.Status, c.Found, c.Consequence, c.Fix = Fail, "not running at "+f.Daemon.Socket, "RAYPHER_RUN_DIR names it: nothing is run", "start it with this --run-dir, or correct RAYPHER_RUN_DIR"
	case absent && f.UID == 0:
		c.Status, c.Found, c.Consequence, c.Fix = Info, "not running", "raypher run starts a private pair for each run; other users cannot run agents", "systemctl enable --now raypherd"
	case absent:
		c.Status, c.Found, c.Consequence, c.Fix = Fail, "not running", "only root can run agents without it", "sudo systemctl enable --now raypherd"
	case refused:
		c.Status, c.Found, c.Consequence, c.Fix = Fail, "running, but this user may not talk to it", "this user cannot run agents", "usermod -aG "+f.Group+" USER, then log in again"
		if !f.HasGroup {
			c.Fix = "groupadd --system " + f.Group + ", restart raypherd, " + c.Fix
		}
	default:
		c.Status, c.Found, c.Consequence, c.Fix = Fail, "no answer at "+f.Daemon.Socket+": "+f.Daemon.Err.Error(), "no agent is started", "look at its log: journalctl -u raypherd"
	}
	return c
}

func checkEnclave(f *Findings) Check {
	c := Check{Name: "enclave", Status: OK}
	hardware := "no trusted hardware seen"
	if len(f.Devices) > 0 {
		hardware = strings.Join(f.Devices, " and ") + " present"
	}
	s := f.Daemon.Status
	switch {
	case s == nil:
		c.Status, c.Found = Info, "tier software; "+hardware
		c.Consequence = "a separate process signs visas; its key is protected by the operating system alone, and verifiers refuse it unless they allow software"
	case !s.GetEnclaveReachable():
		c.Status, c.Found = Fail, fmt.Sprintf("tier %s, not reachable", s.GetTier())
		c.Consequence, c.Fix = "no new visa: no agent starts, and running ones are closed when theirs expires", "start it, and look at the log: journalctl -u raypherd -u raypher-enclave"
	default:
		c.Found = fmt.Sprintf("tier %s, reachable; %s", s.GetTier(), hardware)
		if s.GetTier() == "software" {
			c.Consequence = "its key is protected by the operating system alone, and verifiers refuse it unless they allow software"
		}
	}
	return c
}
