package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/examples/stage"
)

// rounds is how often each figure is measured, in turns with what it is compared with; the median counts.
const rounds = 7

// starts is how many programs are started for the cost of a start.
const starts = 40

// policy grants what the measured work does and has every section.
const policy = `
namespace: bench
filesystem:
  read: ["/{usr,bin,lib,lib64,etc,proc,sys,dev,tmp}/**", ~/**]
  write: [/dev/null, ~/**]
  exec: ["/{usr,bin,lib,lib64,tmp}/**", ~/**]
network:
  on_deny: reject
  egress: ["127.0.0.1:8080"]
`

// bench is one run of all measurements.
type bench struct {
	out      io.Writer
	programs string
	home     *stage.Home
	pair     *stage.Pair
	policy   string // path
	self     string // this program, copied into the home
}

func measure(out io.Writer, programs string, agents int, filesOnly bool) (err error) {
	home, err := stage.NewHome()
	if err != nil {
		return err
	}
	defer home.Close()
	b := &bench{out: out, programs: programs, home: home, policy: filepath.Join(home.Root, "policy.yaml"), self: home.Path("bench")}
	if err := b.prepare(); err != nil {
		return err
	}
	// A warden is nobody's child but init's; here it is this program's, so that its time is counted too.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("take in the wardens: %w", err)
	}
	listener, err := net.Listen("tcp4", targetAddress)
	if err != nil {
		return err
	}
	defer listener.Close()
	go acceptAll(listener)

	fmt.Fprintf(out, "%-58s %12s %12s %8s\n", "figure", "with", "without", "ratio")
	if filesOnly {
		if b.pair, err = stage.OpenPair(context.Background(), programs, home); err != nil {
			return err
		}
		defer b.pair.Close()
		return b.files()
	}
	before, err := b.outside()
	if err != nil {
		return err
	}
	b.pair, err = stage.OpenPair(context.Background(), programs, home)
	if err != nil {
		return err
	}
	defer b.pair.Close()
	if err := b.start(); err != nil {
		return err
	}
	if err := b.governed(); err != nil {
		return err
	}
	if err := b.files(); err != nil {
		return err
	}
	if err := b.many(agents); err != nil {
		return err
	}
	after, err := b.outside()
	if err != nil {
		return err
	}
	for _, name := range []string{"connect", "open", "exec"} {
		b.line("ungoverned "+name+": guard loaded, not loaded", after[name], before[name])
	}
	return nil
}

func (b *bench) prepare() error {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.self, program, 0o755); err != nil {
		return err
	}
	return os.WriteFile(b.policy, []byte(policy), 0o644)
}

func acceptAll(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

func (b *bench) line(name string, with, without time.Duration) {
	fmt.Fprintf(b.out, "%-58s %12s %12s %8.3f\n", name, with, without, float64(with)/float64(without))
}

// command is words, under the guard when governed.
func (b *bench) command(governed bool, words ...string) *exec.Cmd {
	if governed {
		return b.under(b.policy, words...)
	}
	return b.under("", words...)
}

// under is words under a policy, or under none.
func (b *bench) under(policy string, words ...string) *exec.Cmd {
	if policy != "" {
		words = append([]string{filepath.Join(b.programs, "raypher"), "run", "--quiet", "--policy", policy, "--"}, words...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = b.home.Work
	cmd.Env = []string{"HOME=" + b.home.Dir, "PATH=/usr/bin:/bin", "TERM=dumb", "TMPDIR=" + b.home.Work}
	if b.pair != nil {
		cmd.Env = append(cmd.Env, b.pair.Environment()...)
	}
	return cmd
}

// operations is how many of each kind of work one measurement does.
var operations = map[string]int{"connect": 3000, "open": 20000, "exec": 150}

// once runs one kind of work and returns the time of one operation.
func (b *bench) once(governed bool, name string) (time.Duration, error) {
	var out, errs bytes.Buffer
	cmd := b.command(governed, b.self, roleWork, name, strconv.Itoa(operations[name]))
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", name, err, errs.String())
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
	return time.Duration(nanoseconds), err
}

// outside measures the work of a process that no agent's guard governs.
func (b *bench) outside() (map[string]time.Duration, error) {
	result := make(map[string]time.Duration)
	for name := range works {
		var times []time.Duration
		for range rounds {
			took, err := b.once(false, name)
			if err != nil {
				return nil, err
			}
			times = append(times, took)
		}
		result[name] = median(times)
	}
	return result, nil
}

// governed measures the work of a governed process beside that of an ungoverned one, in turns.
func (b *bench) governed() error {
	for _, name := range []string{"connect", "open", "exec"} {
		var with, without []time.Duration
		for range rounds {
			for governed, times := range map[bool]*[]time.Duration{true: &with, false: &without} {
				took, err := b.once(governed, name)
				if err != nil {
					return err
				}
				*times = append(*times, took)
			}
		}
		b.line(name+": governed, ungoverned", median(with), median(without))
	}
	return nil
}

// start measures what starting a program under the guard costs, in time and in CPU of everything that takes part.
func (b *bench) start() error {
	var with, without, all []time.Duration
	var cpuWith, cpuWithout time.Duration
	for range starts {
		for _, governed := range []bool{true, false} {
			cpu := b.cpu()
			began := time.Now()
			if err := b.command(governed, "/bin/true").Run(); err != nil {
				return fmt.Errorf("start: %w: run raypher run with this policy to see why", err)
			}
			took := time.Since(began)
			if err := b.reap(); err != nil {
				return err
			}
			spent := b.cpu() - cpu
			if governed {
				with, cpuWith, all = append(with, took), cpuWith+spent, append(all, time.Since(began))
			} else {
				without, cpuWithout = append(without, took), cpuWithout+spent
			}
		}
	}
	b.line("start: raypher run -- /bin/true, /bin/true", median(with), median(without))
	b.line("start: until the warden has ended too", median(all), median(without))
	b.line("start, CPU of all parts", cpuWith/starts, cpuWithout/starts)
	fmt.Fprintf(b.out, "%-58s %12s\n", "start: added by the guard (goal: below 30ms)", median(with)-median(without))
	return nil
}

// reap waits for the wardens of agents that have ended.
func (b *bench) reap() error {
	for _, pid := range children() {
		if slices.Contains(b.pair.Processes(), pid) {
			continue
		}
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			return fmt.Errorf("start: wait for warden %d: %w", pid, err)
		}
	}
	return nil
}

// children are the processes whose parent this program is.
func children() (pids []int) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(child); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// cpu is the processor time of this program's ended children and of the pair.
func (b *bench) cpu() time.Duration {
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		return 0
	}
	total := time.Duration(children.Utime.Nano() + children.Stime.Nano())
	if b.pair != nil {
		for _, pid := range b.pair.Processes() {
			total += processTime(pid)
		}
	}
	return total
}

// processTime reads /proc/PID/schedstat (sched-stats.rst): nanoseconds on a CPU, of every thread.
func processTime(pid int) (total time.Duration) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		nanoseconds, err := strconv.ParseInt(first, 10, 64)
		if err == nil {
			total += time.Duration(nanoseconds)
		}
	}
	return total
}

// many starts agents at once, each with a policy of its own, and waits until all of them work.
func (b *bench) many(agents int) error {
	begin := func(governed bool) (time.Duration, error) {
		began := time.Now()
		var running []*exec.Cmd
		for i := range agents {
			cmd := b.command(governed, "/bin/sh", "-c", "echo up; read never")
			if governed {
				own := filepath.Join(b.home.Root, fmt.Sprintf("policy-%d.yaml", i))
				text := strings.Replace(policy, "8080", strconv.Itoa(10000+i), 1)
				if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
					return 0, err
				}
				cmd.Args[slices.Index(cmd.Args, b.policy)] = own
			}
			running = append(running, cmd)
		}
		return allUp(running, began)
	}
	without, err := begin(false)
	if err != nil {
		return err
	}
	with, err := begin(true)
	if err != nil {
		return err
	}
	b.line(fmt.Sprintf("%d agents at once, each with its own policy: all up", agents), with, without)
	return nil
}

// allUp starts commands, waits until each has printed a line, and ends them by closing their standard input.
func allUp(commands []*exec.Cmd, began time.Time) (time.Duration, error) {
	up := make(chan error, len(commands))
	var ends []io.Closer
	for _, cmd := range commands {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return 0, err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		ends = append(ends, stdin)
		go func() {
			line := make([]byte, 3)
			if _, err := io.ReadFull(stdout, line); err != nil {
				err = fmt.Errorf("an agent did not come up: %w", err)
				up <- err
				return
			}
			up <- nil
		}()
	}
	var failed error
	for range commands {
		if err := <-up; err != nil {
			failed = err
		}
	}
	took := time.Since(began)
	for i, cmd := range commands {
		ends[i].Close()
		_ = cmd.Wait() // `read` fails at the end of its input
	}
	return took, failed
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
