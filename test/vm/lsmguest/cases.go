package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/raypher/raypher/parent/guard/lsm"
	"github.com/raypher/raypher/policy"
)

// cases are the whole test.
func (m *machine) cases() {
	for _, c := range []struct {
		name    string
		uid     int
		changes []func(*policy.Policy)
		do      func(*world) error
	}{
		{"root", 0, nil, (*world).checks},
		{"user", userID, nil, (*world).checks},
		{"capable", 0, nil, (*world).capable},
		{"approval", userID, nil, (*world).approval},
		{"reload", userID, nil, (*world).reload},
		{"deadline", 0, nil, (*world).deadline},
		{"passing", userID, nil, (*world).passing},
		{"audit", userID, []func(*policy.Policy){func(p *policy.Policy) { p.Mode = policy.Audit }}, (*world).audit},
		{"kill", userID, []func(*policy.Policy){func(p *policy.Policy) { p.OnViolation = policy.Kill }}, (*world).kill},
		{"flood", userID, nil, (*world).flood},
		{"moved", userID, nil, (*world).moved},
		{"survives", userID, nil, (*world).survives},
	} {
		began := time.Now()
		w, err := newWorld(m, c.name, c.uid, c.changes...)
		if err != nil {
			m.fail("%s: %v", c.name, err)
			continue
		}
		if err := c.do(w); err != nil {
			m.fail("%s: %v", c.name, err)
		}
		if err := w.close(); err != nil {
			m.fail("%s: close: %v", c.name, err)
		}
		fmt.Printf("GUEST %s: %v\n", c.name, time.Since(began).Round(time.Millisecond))
	}
}

// checks: each attempt of the table is refused by its hook, and its honest sibling passes.
func (w *world) checks() error {
	other := exec.Command(program, "wait")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(w.uid), Gid: uint32(w.uid)}}
	hold, err := other.StdinPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		return err
	}
	defer other.Wait()
	defer hold.Close()
	out := w.run(program, "checks", strconv.Itoa(other.Process.Pid))
	want := len(checks)
	if w.uid != 0 {
		want -= len(rootChecks)
	}
	return w.refused(out, checks[:want])
}

// capable: with every capability an agent comes as far as the hooks behind lsm/capable, and no further.
func (w *world) capable() error {
	if err := w.arm(w.permit, ^uint64(0)); err != nil {
		return err
	}
	return w.refused(w.run(program, "capable"), capableChecks)
}

// refused looks at what a program said of checks, and at the events of their hooks.
func (w *world) refused(out outcome, tried []check) error {
	lines := 0
	for line := range strings.Lines(out.stdout) {
		lines++
		if !strings.HasPrefix(line, "ok ") {
			w.m.fail("user %d: %s", w.uid, strings.TrimSpace(line))
		}
	}
	if out.code != 0 || lines != len(tried) {
		return fmt.Errorf("status %d after %d of %d checks\n%s", out.code, lines, len(tried), out.stderr)
	}
	if err := w.settled(); err != nil {
		return err
	}
	for _, c := range tried {
		if !w.seen(c.hook) {
			w.m.fail("user %d: %s: no event of %s", w.uid, c.name, c.hook)
		}
	}
	if w.m.failed {
		fmt.Println(w.said())
	}
	return nil
}

func (w *world) expect(code int, argv ...string) error {
	if out := w.run(argv...); out.code != code {
		return fmt.Errorf("%v: status %d, not %d: %s%s", argv, out.code, code, out.stdout, out.stderr)
	}
	return nil
}

// approval: what require_approval names is refused, until a person allowed it; once is once, and a while ends.
func (w *world) approval() error {
	const path = "/tmp/w/ask/file"
	if err := w.expect(1, program, "read", path); err != nil {
		return err
	}
	grant := lsm.Grant{CgroupID: w.id, Path: path, Access: policy.Read, Until: bootTime() + int64(time.Hour), Once: true}
	if err := w.guard.Permit(grant); err != nil {
		return err
	}
	if err := w.expect(0, program, "read", path); err != nil {
		return fmt.Errorf("permitted once: %w", err)
	}
	if err := w.expect(1, program, "read", path); err != nil {
		return fmt.Errorf("a second time: %w", err)
	}
	grant.Once = false
	if err := w.guard.Permit(grant); err != nil {
		return err
	}
	for range 2 {
		if err := w.expect(0, program, "read", path); err != nil {
			return fmt.Errorf("permitted for a while: %w", err)
		}
	}
	if err := w.expect(1, program, "write", path); err != nil {
		return fmt.Errorf("another access: %w", err)
	}
	if err := w.guard.Revoke(w.id, path); err != nil {
		return err
	}
	if err := w.expect(1, program, "read", path); err != nil {
		return err
	}
	return w.approvedProgram()
}

// approvedProgram: to execute a program is one call, though the kernel opens, checks and maps it.
func (w *world) approvedProgram() error {
	const path = "/tmp/asked"
	if err := w.expect(-1, path, "read", "/tmp/w/file"); err != nil {
		return err
	}
	grant := lsm.Grant{CgroupID: w.id, Path: path, Access: policy.Read | policy.Exec, Until: bootTime() + int64(time.Hour), Once: true}
	if err := w.guard.Permit(grant); err != nil {
		return err
	}
	if err := w.expect(0, path, "read", "/tmp/w/file"); err != nil {
		return fmt.Errorf("a program that was permitted once: %w", err)
	}
	if err := w.expect(-1, path, "read", "/tmp/w/file"); err != nil {
		return fmt.Errorf("a program a second time: %w", err)
	}
	return nil
}

// reload: new rules hold at once, also for what was opened under the old ones.
func (w *world) reload() error {
	if err := w.expect(0, program, "read", "/tmp/w/file"); err != nil {
		return err
	}
	permit, err := permitOf(func(p *policy.Policy) { p.Filesystem.Deny = append(p.Filesystem.Deny, "/tmp/w/file") })
	if err != nil {
		return err
	}
	if err := w.guard.Reload(w.id, permit); err != nil {
		return err
	}
	if err := w.expect(1, program, "read", "/tmp/w/file"); err != nil {
		return fmt.Errorf("denied: %w", err)
	}
	if err := w.guard.Reload(w.id, w.permit); err != nil {
		return err
	}
	return w.expect(0, program, "read", "/tmp/w/file")
}

// deadline: past the visa's end nothing is granted, whatever was cached; an extension opens again.
func (w *world) deadline() error {
	if err := w.expect(0, program, "read", "/tmp/w/file"); err != nil {
		return err
	}
	if err := w.guard.Extend(w.id, bootTime()); err != nil {
		return err
	}
	if out := w.run(program, "read", "/tmp/w/file"); out.code == 0 {
		return fmt.Errorf("past the deadline: %+v", out)
	}
	if err := w.guard.Extend(w.id, bootTime()+int64(time.Hour)); err != nil {
		return err
	}
	return w.expect(0, program, "read", "/tmp/w/file")
}

// passing: the deadline is part of what is cached. A program opens the same file again and again until it is refused, and nobody
// tells the guard anything meanwhile. Where the machine is so slow that the program starts too late, it gets longer.
func (w *world) passing() error {
	for left := 4 * time.Second; left < patient; left *= 2 {
		if err := w.guard.Extend(w.id, bootTime()+int64(left)); err != nil {
			return err
		}
		out := w.run(program, "until", "/tmp/w/file")
		switch {
		case out.code == neverOpened, out.code == -1: // -1: it was not executed
			continue
		case out.code != 0:
			return fmt.Errorf("status %d: %s%s", out.code, out.stdout, out.stderr)
		}
		if err := w.settled(); err != nil {
			return err
		}
		if !w.told(lsm.Expired) {
			return fmt.Errorf("refused, but not for its deadline:\n%s", w.said())
		}
		return nil
	}
	return fmt.Errorf("the program never started in time")
}

// audit: everything passes, and what would have been refused is told.
func (w *world) audit() error {
	if err := w.expect(0, program, "read", "/tmp/beside"); err != nil {
		return err
	}
	if err := w.settled(); err != nil {
		return err
	}
	if !w.seen("lsm/file_open") {
		return fmt.Errorf("nothing was told")
	}
	return nil
}

// kill: a violation ends the process before the call has an effect.
func (w *world) kill() error {
	if err := w.expect(128+int(syscall.SIGKILL), program, "write", "/tmp/w/new.key"); err != nil {
		return err
	}
	if _, err := os.Stat("/tmp/w/new.key"); err == nil {
		return fmt.Errorf("the file is there")
	}
	return nil
}

// flood: more refusals than are recorded one by one are counted, none is missing, and none is told again while the agent is disarmed.
func (w *world) flood() error {
	if err := w.expect(0, program, "flood", "/tmp/beside"); err != nil {
		return err
	}
	if err := w.settled(); err != nil {
		return err
	}
	told := w.counted()
	disarmed, drained := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-disarmed:
				drained <- w.guard.Drain(context.Background())
				return
			default:
				_ = w.guard.Drain(context.Background()) // the last one tells
			}
		}
	}()
	err := w.guard.Disarm(w.id)
	close(disarmed)
	if err = errors.Join(err, <-drained); err == nil && w.counted() != told {
		err = fmt.Errorf("%d refusals were told when the agent was disarmed, %d before", w.counted(), told)
	}
	return err
}

// moved: a verdict ends when the folder above the file has moved, whoever moved it.
func (w *world) moved() error {
	const before, after = "/tmp/w/moving", "/tmp/moved"
	if err := os.MkdirAll(before, 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(before+"/file", nil, 0o666); err != nil {
		return err
	}
	if err := w.expect(0, program, "read", before+"/file"); err != nil {
		return err
	}
	if err := os.Rename(before, after); err != nil {
		return err
	}
	if err := w.expect(1, program, "read", after+"/file"); err != nil {
		return err
	}
	return os.Rename(after, before)
}

// survives: the guard holds while nobody holds it, and is taken over.
func (w *world) survives() error {
	w.stop()
	w.done.Wait()
	if err := w.guard.Close(); err != nil {
		return err
	}
	if err := w.expect(1, program, "read", "/tmp/beside"); err != nil {
		return fmt.Errorf("while raypherd is away: %w", err)
	}
	if err := w.expect(0, program, "read", "/tmp/w/file"); err != nil {
		return err
	}
	if err := w.m.load(); err != nil {
		return err
	}
	w.guard = w.m.guard
	w.listen()
	if got := w.guard.Agents(); len(got) != 1 || got[0] != w.id {
		return fmt.Errorf("taken over: %v", got)
	}
	if err := w.expect(1, program, "read", "/tmp/beside"); err != nil {
		return err
	}
	return w.expect(0, program, "read", "/tmp/w/file")
}
