// Package deploy holds units, scripts and Terraform modules for hosts; its tests check what can be checked without such hosts.
package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	measured = `{
  "PCR0": "a5"
}`
	enclaveID = "i-0584873aac8fea23b-enc17ad2edcbfdad4b"
)

// host is a machine with programs that answer as nitro-cli, raypher and systemctl do. nitro-cli's answers have the form of its own tests and
// issues (aws/aws-nitro-enclaves-cli, pull request 279).
type host struct {
	t        *testing.T
	dir      string
	measured string
	flags    string // of enclaves that are started
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), measured: measured, flags: "NONE"}
	h.program("nitro-cli", `
echo "nitro-cli $*" >>"$HOST/log"
state=$HOST/running
case $1 in
run-enclave)
	case "$*" in *--debug-mode*) flags=DEBUG_MODE ;; *) flags=$(cat "$HOST/flags") ;; esac
	cat >"$state" <<EOF
[
  {
    "EnclaveName": "other",
    "EnclaveID": "i-0584873aac8fea23b-enc0000000000000000",
    "EnclaveCID": 99,
    "State": "RUNNING",
    "Flags": "NONE"
  },
  {
    "EnclaveName": "raypher",
    "EnclaveID": "`+enclaveID+`",
    "ProcessID": 95271,
    "EnclaveCID": 16,
    "NumberOfCPUs": 2,
    "CPUIDs": [
      2,
      10
    ],
    "MemoryMiB": 512,
    "State": "RUNNING",
    "Flags": "$flags",
    "Measurements": {
      "HashAlgorithm": "Sha384 { ... }",
      "PCR0": "a5"
    }
  }
]
EOF
	echo "Start allocating memory..."
	echo "Started enclave with enclave-cid: 16, memory: 512 MiB, cpu-ids: [2, 10]"
	printf '{\n  "EnclaveName": "raypher",\n  "EnclaveID": "`+enclaveID+`",\n  "ProcessID": 95271,\n  "EnclaveCID": 16\n}\n'
	;;
describe-enclaves) cat "$state" 2>/dev/null || echo '[]' ;;
terminate-enclave) rm -f "$state" ;;
esac`)
	h.program("raypher", `cat "$HOST/measured"`)
	h.program("systemctl", `echo "systemctl $*" >>"$HOST/log"`)
	h.write("image.eif", "image")
	h.write("device", "")
	return h
}

func (h *host) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) program(name, script string) {
	h.t.Helper()
	if err := os.Chmod(h.write(name, "#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) command(arguments ...string) *exec.Cmd {
	h.t.Helper()
	h.write("measured", h.measured)
	h.write("flags", h.flags)
	script, err := filepath.Abs("../scripts/nitro-run.sh")
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{script}, arguments...)...)
	cmd.Dir = h.dir
	cmd.Env = []string{
		"PATH=" + h.dir + ":" + os.Getenv("PATH"), "HOST=" + h.dir, "NITRO_ALLOCATOR=" + filepath.Join(h.dir, "allocator.yaml"),
		"NITRO_DEVICE=" + filepath.Join(h.dir, "device"), "NITRO_INTERVAL=0.05",
	}
	return cmd
}

func (h *host) log() string {
	text, err := os.ReadFile(filepath.Join(h.dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(text)
}

// What is run is measured first, and never in debug mode without being told.
func TestNitroRun(t *testing.T) {
	run := "nitro-cli run-enclave --enclave-name raypher --eif-path image.eif --cpu-count 2 --memory 1024 --enclave-cid 16"
	for _, c := range []struct {
		name      string
		edit      func(*host)
		arguments []string
		want      string // in the output; of failures after "nitro-run: "
		log       string // in the log; "!" before it: not
	}{
		{"as it should be", nil, []string{"image.eif"}, measured + "\nenclave " + enclaveID + " runs with context id 16\n", run + "\n"},
		{"its options", nil, []string{"--cpus", "4", "--memory", "2048", "image.eif"}, "runs with", "--cpu-count 4 --memory 2048"},
		{"the expected image", func(h *host) { h.write("m.json", measured+"\n") }, []string{"--measurements", "m.json", "image.eif"}, "runs with", run},
		{"another image", func(h *host) { h.write("m.json", `{"PCR0": "b6"}`) }, []string{"--measurements", "m.json", "image.eif"}, "nitro-run: image.eif is not the image of m.json", "!run-enclave"},
		{"what is no image", func(h *host) { h.program("raypher", "exit 1") }, []string{"image.eif"}, "nitro-run: image.eif is no image that can be trusted", "!run-enclave"},
		{"debug mode as nitro-cli calls it", nil, []string{"--debug-mode", "image.eif"}, "nitro-run: --debug-mode: an enclave in debug mode hides nothing", "!run-enclave"},
		{"debug mode", nil, []string{"--insecure-debug", "image.eif"}, "IN DEBUG MODE", run + " --debug-mode"},
		{"debug mode that nobody asked for", func(h *host) { h.flags = "DEBUG_MODE" }, []string{"image.eif"}, "nitro-run: enclave " + enclaveID + " runs with flags 'DEBUG_MODE' and not NONE: it was ended", "terminate-enclave --enclave-id " + enclaveID},
		{"no image", nil, []string{"none.eif"}, "nitro-run: none.eif: no such image", "!nitro-cli"},
		{"no device", func(h *host) { os.Remove(filepath.Join(h.dir, "device")) }, []string{"image.eif"}, "nitro-run: /dev/nitro_enclaves is missing", "!nitro-cli"},
		{"a context id of the host", nil, []string{"--cid", "3", "image.eif"}, "nitro-run: --cid 3: use a number from 4", "!nitro-cli"},
		{"a number that is none", nil, []string{"--memory", "1;reboot", "image.eif"}, "nitro-run: --memory 1;reboot: use a number", "!nitro-cli"},
		{"an option without its value", nil, []string{"--cid"}, "nitro-run: ", "!nitro-cli"},
		{"an unknown option", nil, []string{"--cpu", "2", "image.eif"}, "nitro-run: --cpu: unknown", "!nitro-cli"},
		{"two images", nil, []string{"image.eif", "image.eif"}, "nitro-run: expected one image", "!nitro-cli"},
		{"the allocator", nil, []string{"--allocate", "--memory", "768", "image.eif"}, "runs with", "systemctl restart nitro-enclaves-allocator.service\n"},
		{"an allocator that has it already", func(h *host) { h.write("allocator.yaml", "---\nmemory_mib: 1024\ncpu_count: 2\n") }, []string{"--allocate", "image.eif"}, "runs with", "!systemctl"},
		{"an enclave that runs already", func(h *host) { h.started() }, []string{"image.eif"}, "nitro-run: enclave " + enclaveID + " runs with context id 16: end it, or use --replace", "!terminate"},
		{"one that is replaced", func(h *host) { h.started() }, []string{"--replace", "image.eif"}, "runs with", "terminate-enclave --enclave-id " + enclaveID},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			if c.edit != nil {
				c.edit(h)
			}
			cmd := h.command(c.arguments...)
			out, err := cmd.CombinedOutput()
			if fails := strings.HasPrefix(c.want, "nitro-run: "); fails != (err != nil) || !strings.Contains(string(out), c.want) {
				t.Errorf("%v, %s, want %q", err, out, c.want)
			}
			if not, unwanted := strings.CutPrefix(c.log, "!"); unwanted && strings.Contains(h.log(), not) || !unwanted && !strings.Contains(h.log(), c.log) {
				t.Errorf("log %s, want %q", h.log(), c.log)
			}
		})
	}
}

// started leaves an enclave that runs, and an empty log.
func (h *host) started() {
	h.t.Helper()
	if out, err := h.command("image.eif").CombinedOutput(); err != nil {
		h.t.Fatalf("%v, %s", err, out)
	}
	h.write("log", "")
}

// As a service: the script ends its enclave when it is told to end, and fails when the enclave ended.
func TestNitroRunWaits(t *testing.T) {
	for _, stopped := range []bool{true, false} {
		h := newHost(t)
		cmd := h.command("--wait", "image.eif")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for deadline := time.Now().Add(30 * time.Second); strings.Count(h.log(), "describe-enclaves") < 4; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it does not look after its enclave: %s", h.log())
			}
		}
		if stopped {
			cmd.Process.Signal(os.Interrupt)
		} else if err := os.Remove(filepath.Join(h.dir, "running")); err != nil {
			t.Fatal(err)
		}
		err := <-ended
		if stopped && (err != nil || !strings.Contains(h.log(), "terminate-enclave --enclave-id "+enclaveID)) {
			t.Errorf("stopped: %v, %s", err, h.log())
		}
		if !stopped && (err == nil || !strings.Contains(out.String(), "has ended")) {
			t.Errorf("ended by itself: %v, %s", err, out.String())
		}
	}
}

// What a Nitro host gets: its units, which systemd understands.
func TestNitroInstall(t *testing.T) {
	root, bin := t.TempDir(), t.TempDir()
	script, err := os.ReadFile("../scripts/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\$bin/([a-z-]+)`).FindAllSubmatch(script, -1) {
		if err := os.WriteFile(filepath.Join(bin, string(name[1])), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, arguments ...string) {
		t.Helper()
		cmd := exec.Command("../scripts/"+name, arguments...)
		cmd.Env = append(os.Environ(), "DESTDIR="+root, "PREFIX=/opt/raypher", "UNITS=/etc/systemd/system")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("nitro-install.sh", bin)
	units := filepath.Join(root, "etc/systemd/system")
	for name, want := range map[string]string{
		"raypher-enclave.service":       "ExecStart=/opt/raypher/lib/raypher/nitro-run --wait",
		"raypherd.service.d/nitro.conf": "ExecStart=/opt/raypher/bin/raypherd --enclave-cid",
		"raypherd.service":              "Requires=raypher-enclave.service",
	} {
		text, err := os.ReadFile(filepath.Join(units, name))
		if err != nil || !strings.Contains(string(text), want) || strings.Contains(string(text), "/usr/local/bin") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	t.Run("verify", func(t *testing.T) { verifyUnits(t, units) })
	run("uninstall.sh")
	for _, folder := range []string{units, filepath.Join(root, "opt/raypher/bin"), filepath.Join(root, "opt/raypher/lib")} {
		left, err := filepath.Glob(filepath.Join(folder, "raypher*"))
		if err != nil || len(left) != 0 {
			t.Errorf("left after uninstall: %v, %v", left, err)
		}
	}
}

// verifyUnits lets systemd read the units, whose programs are not on this machine.
func verifyUnits(t *testing.T, units string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze: apt-get install systemd")
	}
	program := regexp.MustCompile(`(?m)^(ExecStart=)/\S+`)
	var names []string
	for _, name := range []string{"raypherd.service", "raypher-enclave.service", "raypherd.service.d/nitro.conf"} {
		path := filepath.Join(units, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, program.ReplaceAll(text, []byte("${1}/bin/true")), 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".service") {
			names = append(names, path)
		}
	}
	allocator := "[Service]\nType=oneshot\nExecStart=/bin/true\n"
	if err := os.WriteFile(filepath.Join(units, "nitro-enclaves-allocator.service"), []byte(allocator), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, names...)...)
	verify.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+units+":")
	out, err := verify.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "raypher") { // the machine's own units are not ours
			t.Error(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
