package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/test/metered"
)

// timed is a program of node's that calls a model by turns through each of the URLs of its arguments but the first, which is how often,
// and prints the median of each in microseconds: of whole answers, and of the first bytes of streams.
const timed = `
const [rounds, ...urls] = process.argv.slice(2);
const took = {};
async function call(url, stream, count) {
  const began = performance.now();
  const answer = await fetch(url + '/chat/completions', {
    method: 'POST', headers: { authorization: 'Bearer ' + process.env.OPENAI_API_KEY, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', stream, max_tokens: 20, messages: [{ role: 'user', content: 'some words that come back' }] }),
  });
  let ended;
  if (stream) {
    for await (const part of answer.body) ended ??= performance.now();
  } else {
    await answer.text();
    ended = performance.now();
  }
  if (answer.status !== 200) throw new Error('status ' + answer.status);
  if (count) (took[stream + url] ??= []).push(1000 * (ended - began));
}
const median = (all) => all.sort((a, b) => a - b)[all.length >> 1];
(async () => {
  for (const stream of [false, true]) {
    for (let i = -20; i < rounds; i++) for (const url of i & 1 ? urls : urls.toReversed()) await call(url, stream, i >= 0);
  }
  console.log(JSON.stringify(urls.map((url) => [median(took[false + url]), median(took[true + url])])));
})();
`

// BenchmarkCallsOfModels is what a governed agent waits for a model, through the gateway of the whole product and through nginx that does
// TLS to the same provider and nothing else, by turns. A call leaves when what it may cost is on the disk; so the disk counts, and the
// rest is measured without one.
func BenchmarkCallsOfModels(b *testing.B) {
	b.Run("journal-on-disk", callsOfModels)
	b.Run("journal-in-memory", func(b *testing.B) {
		// The tests have mounts of their own.
		if err := unix.Mount("tmpfs", "/var/tmp", "tmpfs", 0, ""); err != nil {
			b.Fatal(err)
		}
		defer unix.Unmount("/var/tmp", unix.MNT_DETACH)
		callsOfModels(b)
	})
}

func callsOfModels(b *testing.B) {
	h := newHouse(b, "5")
	nginx := metered.Nginx(b, fmt.Sprintf("127.0.0.1:%d", h.port), "127.0.0.1", h.secret, h.provider.RootPEM())
	if err := os.WriteFile(filepath.Join(h.home.Work, "timed.js"), []byte(timed), 0o644); err != nil {
		b.Fatal(err)
	}
	granted := strings.Replace(quiet, "on_deny: reject", "on_deny: reject\n  egress: ["+strings.TrimPrefix(nginx, "http://")+"]", 1)
	rounds := max(b.N, 100)
	began := processorTime(b, h.pair.Processes())
	b.ResetTimer()
	got := h.run(granted, "/bin/sh", "-c", fmt.Sprintf("exec /usr/bin/node timed.js %d $OPENAI_BASE_URL %s/v1", rounds, nginx))
	var medians [2][2]float64
	if err := json.Unmarshal([]byte(got.stdout), &medians); err != nil {
		b.Fatalf("%v: %+v", err, got)
	}
	for i, what := range []string{"", "first-byte-"} {
		b.ReportMetric(medians[0][i], "gateway-"+what+"us")
		b.ReportMetric(medians[1][i], "nginx-"+what+"us")
		b.ReportMetric(medians[0][i]-medians[1][i], "more-"+what+"us")
	}
	took := processorTime(b, h.pair.Processes()) - began
	b.ReportMetric(float64(took.Microseconds())/float64(2*(rounds+20)), "processors-us") // of raypherd and enclave, whatever else runs
	b.ReportMetric(0, "ns/op")
}

// processorTime is what processes have used until now (proc_pid_stat(5), fields 14 and 15, in hundredths of a second).
func processorTime(b *testing.B, pids []int) (all time.Duration) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), ") ") // behind the name
		fields := strings.Fields(after)
		for _, field := range fields[11:13] {
			n, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			all += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return all
}
