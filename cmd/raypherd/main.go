// Command raypherd is the parent daemon: it puts agents under the guard, keeps their visas, and records what was refused.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/daemon"
	"github.com/raypher/raypher/parent/doctor"
	"github.com/raypher/raypher/parent/egress"
	"github.com/raypher/raypher/parent/instance"
)

// version is set by the linker (-X main.version=...).
var version = "devel"

// memoryLimit is where the garbage collector stops trading memory for time, in bytes.
const memoryLimit = 256 << 20

func main() {
	options, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "raypherd:", err)
		os.Exit(2)
	}
	if options == nil {
		return // --version, --caller-key
	}
	// The heap is a few megabytes, as that of raypher-enclave: collecting less often costs little.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := daemon.Run(ctx, *options); err != nil {
		fmt.Fprintln(os.Stderr, "raypherd:", err)
		if hint := doctor.Explain(err); hint != "" {
			fmt.Fprintln(os.Stderr, "raypherd:", hint)
		}
		os.Exit(1)
	}
}

const usage = `raypherd: the parent daemon of Raypher. It puts agents under the guard, renews their visas, and has
every refusal recorded. It runs as root.

usage: raypherd [flags]

Without --enclave-socket, --enclave-cid and --enclave-vsock-uds it starts raypher-enclave as a child: tier software, for
development, or tier tpm with --tpm-device, where the ceiling is the operator's (raypher ceiling).
SIGTERM ends raypherd; running agents stay under the guard, and the next raypherd finds them again.

flags:
`

// parse reads the flags. Without error and options it was --version.
func parse(args []string, out io.Writer) (*daemon.Options, error) {
	var (
		o                                 = daemon.Options{Version: version}
		run, state, private, format, dns  string
		dnsPort, cid, enclavePort         uint
		uds                               string
		showVersion, callerKey, benchmark bool
		nitroEnclave                      bool
	)
	flags := flag.NewFlagSet("raypherd", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&run, "run-dir", "", "folder of sockets and records (default "+instance.DefaultRun+"); another folder makes an instance of its own")
	flags.StringVar(&state, "state-dir", "", "folder of the journal and keys (default "+instance.DefaultState+")")
	flags.StringVar(&o.Policy, "policy", instance.Policy, "the host's default policy, for runs that name none; checked at start")
	flags.StringVar(&o.Signers, "signers", instance.Signers, "folder with the keys of trusted manifest signers")
	flags.StringVar(&o.Namespaces, "namespaces", instance.Namespaces, "`file` with what the agents of each namespace may use together; checked at start, read anew by raypher reload, SIGHUP and a restart")
	flags.StringVar(&o.EnclaveSocket, "enclave-socket", "", "unix socket of an enclave that runs already")
	flags.UintVar(&cid, "enclave-cid", 0, "vsock context id of a Nitro enclave that runs already, as nitro-cli prints it; it gets its start configuration (ibev.conf beside raypherd's keys) from raypherd")
	flags.StringVar(&uds, "enclave-vsock-uds", "", "the same by the socket of a vsock device on this host, as of an enclave in the laboratory")
	flags.UintVar(&enclavePort, "enclave-port", 5000, "with these two: vsock port of the enclave; its start configuration goes to the one after it")
	flags.StringVar(&o.EnclaveTier, "enclave-mode", "", "where the enclave's key has to lie: nitro (an enclave at --enclave-cid or --enclave-vsock-uds), tpm (--tpm-device, by default "+defaultTPM+", or the enclave at --enclave-socket) or software; another enclave is refused (default: wherever it lies)")
	flags.BoolVar(&nitroEnclave, "nitro-enclave", false, "the same as --enclave-mode nitro")
	flags.StringVar(&o.Measurements, "enclave-measurements", "", "`file` with the measurements of the enclave's image: what raypher eif measure --json prints, or a signed list of golden measurements. An enclave of this image is taken whatever its key, so that it can be started anew, and no other (default: its key is pinned at first contact)")
	flags.Func("enclave-measurements-key", "PEM file with a public key that may sign that list (may be repeated)", func(name string) error {
		o.MeasurementKeys = append(o.MeasurementKeys, name)
		return nil
	})
	flags.StringVar(&o.NitroRoot, "nitro-root", "", "LABORATORY: PEM file with the root under which the enclave's documents are believed instead of AWS's; status and log say so")
	flags.Func("enclave-egress", "host:port that the enclave may be connected to through this host, besides the controller in the start configuration that raypherd sends or keeps; repeated", func(address string) error {
		o.EnclaveEgress = append(o.EnclaveEgress, address)
		return egress.CheckAllowed(o.EnclaveEgress)
	})
	flags.StringVar(&o.EnclaveBinary, "enclave-binary", "", "raypher-enclave to start (default: beside raypherd)")
	flags.StringVar(&o.TPMDevice, "tpm-device", "", "TPM for the signing key of the enclave that raypherd starts, as /dev/tpmrm0: tier tpm (default: a key file, tier software). With --enclave-cid: this instance's NitroTPM, as /dev/tpm0, whose document the enclave shows its controller")
	flags.BoolVar(&o.Development, "dev", false, "with --tpm-device: let the enclave make a missing operator key and a ceiling that permits everything, as it does on tier software (default: grant nothing before an operator has installed a ceiling)")
	flags.StringVar(&o.Listen, "listen", instance.AgentAddress, "loopback address of the Agent service; empty: none")
	flags.StringVar(&o.Gateway, "gateway", instance.GatewayAddress, "loopback address where agents call models whose cost is metered: their bytes go to the enclave; empty: none")
	flags.StringVar(&o.Metrics, "metrics", "", "loopback address of GET /metrics for Prometheus, like 127.0.0.1:9464: calls of models and how budgets stand, readable for every user of this host (default: none)")
	flags.StringVar(&o.OTLP, "otlp", "", "`URL` of an OpenTelemetry collector that takes OTLP over HTTP, like http://127.0.0.1:4318: it gets a span of each call of a model (default: none)")
	flags.UintVar(&dnsPort, "dns-port", 0, "port of the DNS forwarder on loopback; 0: one that is free")
	flags.StringVar(&dns, "dns-upstream", "", "resolvers as address or address:port, separated by commas (default: those of /etc/resolv.conf)")
	flags.StringVar(&o.Backend, "backend", daemon.Auto, "what holds agents' files and programs: lsm (programs of BPF LSM), broker (Landlock, seccomp and a warden), or auto: lsm where this kernel takes it, but for private runs")
	flags.Func("xdp", "`interface` whose incoming packets are judged before the kernel's stack sees them: what comes for an agent's socket and none of its flows asked for is dropped, and nothing of this host's own; repeated", func(name string) error {
		o.XDP = append(o.XDP, name)
		return nil
	})
	flags.BoolVar(&o.CountCalls, "count-calls", false, "count the system calls of all agents by name, as calls_NAME in the counters of raypher status --json; it costs every process of this host some 0.1 µs for each of its calls")
	flags.StringVar(&o.Group, "group", instance.Group, "group whose members run agents and operate raypherd")
	flags.StringVar(&private, "private", "", "serve the one run with this id and end with it; no TCP listener")
	flags.IntVar(&o.KeepRuns, "keep-runs", daemon.KeptRuns, "how many private runs keep their journals; those of the last 30 days always do")
	flags.BoolVar(&o.DryRun, "dry-run", false, "run every agent in mode audit: record what would have been refused, refuse nothing")
	flags.StringVar(&format, "log-format", "text", "text or json")
	flags.BoolVar(&callerKey, "caller-key", false, "print the line that the start configuration of an enclave needs (see --enclave-socket), and end")
	flags.BoolVar(&benchmark, "benchmark-tpm", false, "measure the TPM (see --tpm-device), print a table, and end")
	flags.BoolVar(&showVersion, "version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if showVersion {
		fmt.Println("raypherd", version)
		return nil, nil
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: see --help", flags.Arg(0))
	}
	var err error
	if o.Log, err = logger(format, out); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{daemon.Auto, agents.LSM, agents.Broker}, o.Backend) {
		return nil, fmt.Errorf("--backend %q: use auto, lsm or broker", o.Backend)
	}
	if o.KeepRuns < 0 {
		return nil, fmt.Errorf("--keep-runs %d: give a number from 0", o.KeepRuns)
	}
	if dnsPort > 65535 {
		return nil, fmt.Errorf("--dns-port %d: a port is at most 65535", dnsPort)
	}
	if o.EnclaveMachine, err = enclaveMachine(cid, uds, enclavePort); err != nil {
		return nil, err
	}
	o.EnclavePort = uint32(enclavePort)
	if err := oneEnclave(o); err != nil {
		return nil, err
	}
	if err := enclaveMode(&o, nitroEnclave); err != nil {
		return nil, err
	}
	o.DNSPort = uint16(dnsPort)
	if dns != "" {
		o.DNSUpstreams = strings.Split(dns, ",")
	}
	if private != "" {
		o.Listen, o.Gateway, o.Metrics, o.OTLP = "", "", "", ""
	}
	o.Paths, err = paths(run, state, private)
	if err == nil && benchmark {
		return nil, daemon.BenchmarkTPM(context.Background(), o, os.Stdout, os.Stderr)
	}
	if err == nil && callerKey {
		return nil, printCallerLine(o.Paths)
	}
	return &o, err
}

// enclaveMachine is where an enclave in a machine of its own is; empty: there is none.
func enclaveMachine(cid uint, uds string, port uint) (string, error) {
	switch {
	case cid >= math.MaxUint32:
		return "", fmt.Errorf("--enclave-cid %d: a context id is below 4294967295", cid)
	case port == 0 || port >= math.MaxUint32:
		return "", fmt.Errorf("--enclave-port %d: use 1 to 4294967294", port)
	case cid != 0 && uds != "":
		return "", errors.New("--enclave-cid, --enclave-vsock-uds: use one of them")
	case cid != 0:
		return fmt.Sprintf("vsock:%d", cid), nil
	case uds != "":
		return "vsock-uds:" + uds, nil
	}
	return "", nil
}

// oneEnclave refuses flags about an enclave that raypherd starts beside those about one that runs already.
func oneEnclave(o daemon.Options) error {
	running := "--enclave-socket"
	switch {
	case o.EnclaveSocket != "" && o.EnclaveMachine != "":
		return errors.New("--enclave-socket: an enclave with a context id is no process of this host: use one of them")
	case o.EnclaveMachine != "":
		running = "--enclave-cid or --enclave-vsock-uds"
	case o.EnclaveSocket == "":
		return nil
	}
	if o.TPMDevice != "" && o.EnclaveMachine == "" {
		return fmt.Errorf("--tpm-device: the enclave at %s runs already: start that one with --signer tpm", running)
	}
	if o.Development {
		return fmt.Errorf("--dev: the enclave at %s runs already: start that one with --dev", running)
	}
	return nil
}

// defaultTPM is the device of --enclave-mode tpm.
const defaultTPM = "/dev/tpmrm0"

// enclaveMode holds the wanted tier against where the enclave is.
func enclaveMode(o *daemon.Options, nitro bool) error {
	if nitro && o.EnclaveTier != "" && o.EnclaveTier != journal.TierNitro {
		return fmt.Errorf("--nitro-enclave, --enclave-mode %s: use one of them", o.EnclaveTier)
	}
	if nitro {
		o.EnclaveTier = journal.TierNitro
	}
	machine := o.EnclaveMachine != ""
	switch o.EnclaveTier {
	case "":
	case journal.TierNitro:
		if !machine {
			return errors.New("tier nitro: name the enclave with --enclave-cid; nitro-cli describe-enclaves prints its context id")
		}
	case journal.TierTPM:
		if machine {
			return errors.New("--enclave-mode tpm: an enclave in a machine of its own has no TPM: use nitro")
		}
		if o.EnclaveSocket == "" && o.TPMDevice == "" {
			o.TPMDevice = defaultTPM
		}
	case journal.TierSoftware:
		if o.TPMDevice != "" {
			return errors.New("--enclave-mode software: contradicts --tpm-device")
		}
	default:
		return fmt.Errorf("--enclave-mode %q: use nitro, tpm or software", o.EnclaveTier)
	}
	return measured(o, machine && (o.EnclaveTier == "" || o.EnclaveTier == journal.TierNitro))
}

// measured refuses flags about documents where none will come.
func measured(o *daemon.Options, documents bool) error {
	for name, given := range map[string]bool{"enclave-measurements": o.Measurements != "", "nitro-root": o.NitroRoot != ""} {
		if given && !documents {
			return fmt.Errorf("--%s: is for enclaves of tier nitro: use it with --enclave-cid or --enclave-vsock-uds", name)
		}
	}
	if len(o.MeasurementKeys) > 0 && o.Measurements == "" {
		return errors.New("--enclave-measurements-key: needs --enclave-measurements")
	}
	return nil
}

func printCallerLine(p instance.Paths) error {
	line, err := daemon.CallerLine(p)
	if err == nil {
		fmt.Println(line)
	}
	return err
}

// paths finds the instance that the flags name.
func paths(run, state, private string) (instance.Paths, error) {
	if private == "" {
		return instance.At(run, state)
	}
	if run == "" {
		run = instance.DefaultRun
	}
	if state == "" {
		state = instance.DefaultState
	}
	return instance.PrivateIn(run, state, private)
}

func logger(format string, out io.Writer) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(out, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, nil)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", format)
}
