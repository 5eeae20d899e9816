package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// side is one of the things that are compared.
type side struct {
	policy string   // of the guard that it runs under; empty: none
	under  string   // what it puts itself under: plain, notified or landlock=POLICY
	work   []string // open PATH, or run PROGRAM ARGUMENTS
}

// cost is what one operation of a side took: from start to end, and of the processor, by all processes of the guard too.
type cost struct{ wall, cpu time.Duration }

// runner is a side that runs.
type runner struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	errs bytes.Buffer
}

func (b *bench) startSide(s side) (*runner, error) {
	r := &runner{cmd: b.under(s.policy, append([]string{b.self, roleTurns, s.under}, s.work...)...)}
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out, r.cmd.Stderr = bufio.NewScanner(out), &r.errs
	return r, r.cmd.Start()
}

// turn lets a side do its work count times. All that works meanwhile is this program's child: the side, wardens, raypherd, enclave.
func (b *bench) turn(r *runner, count int) (cost, error) {
	before := b.childrensTime()
	fmt.Fprintln(r.in, count)
	if !r.out.Scan() {
		return cost{}, errors.Join(fmt.Errorf("%s ended: %s", strings.Join(r.cmd.Args, " "), r.errs.String()), r.out.Err())
	}
	var wall, children int64
	if _, err := fmt.Sscan(r.out.Text(), &wall, &children); err != nil {
		return cost{}, fmt.Errorf("%q: %w", r.out.Text(), err)
	}
	cpu := b.childrensTime() - before + time.Duration(children)
	return cost{time.Duration(wall) / time.Duration(count), cpu / time.Duration(count)}, nil
}

// childrensTime is what this program's children have taken of the processor. It is exact while they wait.
func (b *bench) childrensTime() (total time.Duration) {
	for _, pid := range children() {
		total += processTime(pid)
	}
	return total
}

func (r *runner) end() {
	r.in.Close()
	_ = r.cmd.Wait() // it has said what there was to say
}

// Turns of one comparison: many short ones close together, so that a slow moment of the machine falls on both sides of a pair, in
// processes that are started anew a few times.
const (
	instances = 3
	turns     = 9 // of each instance, after one to warm up
)

// compare measures sides in turns and prints a line for the first beside each other one, with the medians of their costs and of the
// ratios in each round.
func (b *bench) compare(names []string, count int, sides ...side) error {
	costs := make([][]cost, len(sides))
	for range instances {
		if err := b.instance(count, sides, costs); err != nil {
			return err
		}
	}
	for i, name := range names {
		b.lines(name, costs[0], costs[i+1])
	}
	return nil
}

func (b *bench) instance(count int, sides []side, costs [][]cost) error {
	var running []*runner
	defer func() {
		for _, r := range running {
			r.end()
		}
	}()
	for _, s := range sides {
		r, err := b.startSide(s)
		if err != nil {
			return err
		}
		running = append(running, r)
		if _, err := b.turn(r, max(count/4, 1)); err != nil {
			return err
		}
	}
	for range turns {
		for i, r := range running {
			one, err := b.turn(r, count)
			if err != nil {
				return err
			}
			costs[i] = append(costs[i], one)
		}
	}
	return nil
}

// lines prints the medians of two sides' costs, and of the ratios of the pairs.
func (b *bench) lines(name string, with, without []cost) {
	of := func(costs []cost, pick func(cost) time.Duration) time.Duration {
		var all []time.Duration
		for _, c := range costs {
			all = append(all, pick(c))
		}
		return median(all)
	}
	ratio := func(pick func(cost) time.Duration) float64 {
		var all []float64
		for i := range with {
			all = append(all, float64(pick(with[i]))/float64(pick(without[i])))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	wall, cpu := func(c cost) time.Duration { return c.wall }, func(c cost) time.Duration { return c.cpu }
	fmt.Fprintf(b.out, "%-58s %12s %12s %8.3f\n", name, of(with, wall), of(without, wall), ratio(wall))
	fmt.Fprintf(b.out, "%-58s %12s %12s %8.3f\n", "  the same, CPU of every process that takes part", of(with, cpu), of(without, cpu), ratio(cpu))
}
