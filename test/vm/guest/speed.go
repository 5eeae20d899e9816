package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/agents"
)

// What is opened and closed, how often in one round, and of how many rounds the fastest counts: others of the host disturb the rest.
const (
	speedCount  = 20000
	speedRounds = 7
)

var speedPath = homes[userID] + "/work/one/two/file" // six components

// measured is the governed program that opens and closes, and prints the nanoseconds that one of both took.
func measured(path string) int {
	best := time.Duration(1<<63 - 1)
	for range speedRounds {
		began := time.Now()
		for range speedCount {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				fmt.Print(err)
				return 1
			}
			unix.Close(fd)
		}
		best = min(best, time.Since(began))
	}
	fmt.Print(best.Nanoseconds() / speedCount)
	return 0
}

// speed compares opening and closing a file: without the guard, outside of all agents while its hooks are attached, under it with few and
// many rules, and under Landlock alone. In an emulated machine only the ratios mean something.
func (m *machine) speed() {
	if err := os.MkdirAll(speedPath[:strings.LastIndexByte(speedPath, '/')], 0o755); err != nil {
		m.fail("%v", err)
		return
	}
	if err := os.WriteFile(speedPath, []byte("x"), 0o644); err != nil {
		m.fail("%v", err)
		return
	}
	plain := m.pace("")
	// First, while no program of BPF LSM is attached: after a raypherd with lsm was killed, one with broker starts no agent (EACCES).
	if err := m.startDaemon("--backend", agents.Broker); err != nil {
		m.fail("%v", err)
		return
	}
	landlock := m.pace(speedPolicy(500, true))
	m.killDaemon()
	if err := m.startDaemon("--backend", agents.LSM); err != nil {
		m.fail("%v", err)
		return
	}
	outside := m.pace("")
	held := map[int]float64{}
	for _, n := range []int{10, 500, 5000} {
		held[n] = m.pace(speedPolicy(n, false))
	}
	fmt.Printf("GUEST open+close: plain %.0f ns, outside of agents %.2f x, lsm with 10 rules %.2f x, 500 %.2f x, 5000 %.2f x, landlock %.2f x\n",
		plain, outside/plain, held[10]/plain, held[500]/plain, held[5000]/plain, landlock/plain)
	fmt.Printf("GUEST added above the hook with 500 rules, as a part of what landlock adds: %.2f\n", (held[500]-outside)/(landlock-plain))
}

// speedPolicy grants the file, and n-1 other folders. Under static Landlock alone decides.
func speedPolicy(n int, static bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "namespace: vm\nfilesystem:\n  static: %v\n  exec: [/bin/guest]\n  write: [/dev/null]\n", static)
	for half, list := range []string{"read", "deny"} {
		if half == 1 && n < 5000 {
			break
		}
		fmt.Fprintf(&b, "  %s:\n", list)
		if half == 0 {
			fmt.Fprintf(&b, "  - %s/work/**\n  - /bin/**\n  - /proc/**\n", homes[userID])
		}
		for i := range min(n, 2500) {
			folder := fmt.Sprintf("/tmp/speed/%s-%d", list, i)
			fmt.Fprintf(&b, "  - %s/**\n", folder)
			if static {
				_ = os.MkdirAll(folder, 0o755) // Landlock takes rules for what is there
			}
		}
	}
	return b.String()
}

// pace is the nanoseconds of one open and close under a policy; empty: without the guard.
func (m *machine) pace(policy string) float64 {
	argv := []string{program, "speed", speedPath}
	if policy != "" {
		const path = "/etc/speed.yaml"
		if err := os.WriteFile(path, []byte(policy), 0o644); err != nil {
			m.fail("%v", err)
		}
		argv = append([]string{"/bin/raypher", "run", "--policy", path, "--"}, argv...)
	}
	out := m.command(userID, argv...)
	took, err := strconv.ParseFloat(out.stdout, 64)
	if err != nil || out.code != 0 {
		m.fail("%v: status %d, %q\n%s", argv, out.code, out.stdout, out.stderr)
		return 1
	}
	return took
}
