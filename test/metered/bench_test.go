package metered

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// way is one that calls take to the provider.
type way struct {
	name, url string
	client    *http.Client
	took      []time.Duration
}

// median of what calls took.
func (w *way) median() time.Duration {
	slices.Sort(w.took)
	return w.took[len(w.took)/2]
}

const (
	benchCall   = `{"model":"m","max_tokens":300,"messages":[{"role":"user","content":"some words that come back"}]}`
	benchStream = `{"model":"m","max_tokens":300,"stream":true,"messages":[{"role":"user","content":"some words that come back"}]}`
)

// take makes one call and notes how long it took to the end of its answer, or to the first byte of a stream.
func (w *way) take(b *testing.B, body string, first bool) {
	r, err := http.NewRequest(http.MethodPost, w.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+Handle)
	r.Header.Set("Content-Type", "application/json")
	began := time.Now()
	response, err := w.client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if first {
		_, _ = io.ReadFull(response.Body, make([]byte, 1))
		w.took = append(w.took, time.Since(began))
	}
	rest, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("%s: %d %s %v", w.name, response.StatusCode, rest, err)
	}
	if !first {
		w.took = append(w.took, time.Since(began))
	}
}

// BenchmarkBesideNginx makes calls by turns through the gateway and through nginx, which does nothing but TLS, to the same provider. The
// gateway, the provider and the caller are one process; nginx is another.
func BenchmarkBesideNginx(b *testing.B) {
	for _, c := range []struct {
		name, body string
		first      bool
	}{{"call", benchCall, false}, {"stream", benchStream, true}} {
		b.Run(c.name, func(b *testing.B) {
			w := Open(b, Options{Budget: "1000"})
			// Each has connections of its own, as other agents would.
			ways := []*way{{name: "gateway", url: w.URL + "/openai"}, {name: "nginx", url: Nginx(b, w.Upstream, "provider.test", Secret, w.Provider.RootPEM())}}
			for _, way := range ways {
				way.client = &http.Client{Transport: &http.Transport{}}
				for range 20 {
					way.take(b, c.body, c.first)
				}
				way.took = nil
			}
			b.ResetTimer()
			for i := range b.N {
				ways[i%2].take(b, c.body, c.first)
				ways[(i+1)%2].take(b, c.body, c.first)
			}
			b.StopTimer()
			gateway, plain := ways[0].median(), ways[1].median()
			b.ReportMetric(float64(gateway.Microseconds()), "gateway-us")
			b.ReportMetric(float64(plain.Microseconds()), "nginx-us")
			b.ReportMetric(float64((gateway - plain).Microseconds()), "more-us")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// alone tells a test's process to be a gateway: "address root-in-PEM-file".
const alone = "RAYPHER_TEST_GATEWAY_ALONE"

// TestGatewayAlone is no test: it is the process whose memory BenchmarkOpenStreams measures.
func TestGatewayAlone(t *testing.T) {
	address, file, ok := strings.Cut(os.Getenv(alone), " ")
	if !ok {
		return
	}
	root, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(root)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	w := Open(t, Options{Budget: "1000", At: &At{Address: address, Roots: roots}})
	fmt.Println(w.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// BenchmarkOpenStreams holds a thousand streams open at once through a gateway in a process of its own, and says what memory that has.
func BenchmarkOpenStreams(b *testing.B) {
	const streams = 1000
	w := Open(b, Options{}) // for its provider
	file := filepath.Join(b.TempDir(), "root.pem")
	if err := os.WriteFile(file, w.Provider.RootPEM(), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestGatewayAlone$")
	cmd.Env = append(os.Environ(), alone+"="+w.Upstream+" "+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if _, err := cmd.StdinPipe(); err != nil { // it goes on until this ends
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	// It would read streams to their end that nobody listens to.
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	before := resident(b, cmd.Process.Pid)
	for range b.N {
		ctx, cancel := context.WithCancel(b.Context())
		transport := &http.Transport{MaxIdleConnsPerHost: streams}
		var opened, ended sync.WaitGroup
		opened.Add(streams)
		for range streams {
			ended.Go(func() {
				open := sync.OnceFunc(opened.Done)
				defer open()
				r := w.Request(ctx, "", strings.Replace(benchStream, "some words", strings.Repeat("many words !slow ", 200), 1))
				r.URL, _ = r.URL.Parse(strings.TrimSpace(url) + "/openai/v1/chat/completions")
				response, err := transport.RoundTrip(r)
				if err != nil {
					b.Error(err)
					return
				}
				defer response.Body.Close()
				if response.StatusCode != http.StatusOK {
					b.Error(response.Status)
					return
				}
				_, _ = io.ReadFull(response.Body, make([]byte, 1))
				open()
				_, _ = io.Copy(io.Discard, response.Body)
			})
		}
		opened.Wait()
		b.ReportMetric(float64(resident(b, cmd.Process.Pid)), "MiB")
		b.ReportMetric(float64(before), "idle-MiB")
		cancel()
		ended.Wait()
		transport.CloseIdleConnections()
	}
	b.ReportMetric(0, "ns/op")
}

// resident is what memory a process has, in MiB.
func resident(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				b.Fatal(err)
			}
			return kib >> 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
