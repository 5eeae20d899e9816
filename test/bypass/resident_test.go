package bypass

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/raypher/raypher/test/governed"
)

// resident is an agent that does one action after the other.
type resident struct {
	w       *world
	agent   *governed.Agent
	ask     io.WriteCloser
	answers *bufio.Scanner
}

func (w *world) reside(policy string) *resident {
	w.t.Helper()
	r := &resident{w: w, agent: w.prepare(policy, w.program, "lines")}
	out, err := r.agent.Cmd.StdoutPipe()
	w.must(err)
	r.ask, err = r.agent.Cmd.StdinPipe()
	w.must(err)
	w.must(r.agent.Cmd.Start())
	w.t.Cleanup(func() { _ = r.agent.Cmd.Process.Kill(); _ = r.agent.Cmd.Wait() })
	r.answers = bufio.NewScanner(out)
	r.expect("open /dev/null r")
	return r
}

// expect does "action => answer", as world.expect.
func (r *resident) expect(line string) {
	r.w.t.Helper()
	action, want, found := strings.Cut(strings.NewReplacer("FOLDER", r.w.folder, "PROGRAM", r.w.program).Replace(line), " => ")
	if !found {
		want = "ok"
	}
	if got := r.do(action); !slices.Contains(strings.Split(want, "|"), got) {
		r.w.t.Errorf("%s: answered %s, want %s", action, got, want)
	}
}

// do does an action and returns the answer.
func (r *resident) do(action string) string {
	r.w.t.Helper()
	fmt.Fprintln(r.ask, action)
	if !r.answers.Scan() {
		r.w.t.Fatalf("%s: the agent ended\n%s", action, r.agent.Said())
	}
	return r.answers.Text()
}

// end lets the agent end by itself.
func (r *resident) end() {
	r.w.t.Helper()
	r.ask.Close()
	if err := r.agent.Cmd.Wait(); err != nil {
		r.w.t.Errorf("the agent: %v\n%s", err, r.agent.Said())
	}
}

// pid is the agent's program: `raypher run` became it.
func (r *resident) pid() int { return r.agent.Cmd.Process.Pid }

// warden is the process that answers the agent's calls.
func (r *resident) warden() int {
	r.w.t.Helper()
	wardens, err := filepath.Glob("/proc/[0-9]*/cmdline")
	r.w.must(err)
	newest := 0 // those of agents before it may still be ending
	for _, path := range wardens {
		raw, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(raw), "\x00warden\x00") || !strings.Contains(string(raw), r.w.Pair.Run+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		r.w.must(err)
		newest = max(newest, pid)
	}
	if newest == 0 {
		r.w.t.Fatal("the warden is not found")
	}
	return newest
}
