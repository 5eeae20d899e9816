package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/manifest/file"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/warden"
)

// Options of a run.
type Options struct {
	PolicyPath      string // empty: the host's policy; fleet:NAME: one of the controller
	ManifestPath    string // a manifest, or the folder with it; empty: none
	ManifestSigners string // folder; empty: the host's
	Name            string // of the agent; empty: the program's
	Budget          string // dollars that it may spend on models; empty: what the cost control says
	DryRun          bool
	Quiet           bool // no bound line and no lines for verdicts
	JSON            bool
	Argv            []string
	ReportPath      string // takes what mode audit would have refused; empty: nothing
	// TraceFD is an inherited descriptor that takes the trace of a run in mode audit, which is then demanded; 0: none. The program
	// does not get it.
	TraceFD int

	// Socket of raypherd; empty: found, or a private pair is started.
	Socket string
	// Warden is the command line that starts a warden, before its own flags; empty: this program, subcommand warden.
	Warden []string
	// Stderr takes the bound line; nil: the standard error.
	Stderr io.Writer

	signals bool // the warden decides signals, as on kernels where Landlock does not
}

// decidesSignals reports whether the warden decides all signals: Landlock does not keep them inside.
func (o Options) decidesSignals() bool { return o.signals || !floor.SignalsHeld() }

// runner is the state of one run before it becomes the program.
type runner struct {
	options   Options
	program   *program
	terminals []string
	socket    string
	talk      *warden.Conversation
	limits    floor.Options // without what the terms close
	granted   *attend.Granted
	ready     *ready
	report    int      // descriptor of the report; 0: none
	handle    string   // the placeholder API key
	env       []string // of the program, but for what names its visa
}

// Run starts the agent in place of this process. It returns only when that failed.
func Run(o Options) *Failure {
	runtime.LockOSThread() // what is given up below is given up by this thread, which then becomes the program
	restoreFileLimit()
	r := &runner{options: o}
	if o.Stderr == nil {
		r.options.Stderr = os.Stderr
	}
	err := r.run()
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Code: CodeGuard, Err: err}
}

func (r *runner) run() (err error) {
	if err := errors.Join(checkIdentity(), checkYama()); err != nil {
		return err
	}
	if err := r.enterNamespace(); err != nil {
		return err
	}
	if r.terminals, err = checkStandard(); err != nil {
		return err
	}
	if err := r.openReport(); err != nil {
		return err
	}
	request, err := r.read()
	if err != nil {
		return err
	}
	var note string
	if r.socket = r.options.Socket; r.socket == "" {
		if r.socket, note, err = findDaemon(); err != nil {
			return err
		}
	}
	if err := r.startWarden(); err != nil {
		return err
	}
	if err := r.ask(request); err != nil {
		return err
	}
	// While the warden comes up and raypherd decides, what needs no answer is done.
	if err := keepOnlyPipes(); err != nil {
		return err
	}
	if err := r.hostLimits(); err != nil {
		return err
	}
	if err := r.bind(); err != nil {
		return err
	}
	if note != "" {
		r.ready.plan.Notes = append(r.ready.plan.Notes, note)
	}
	r.env = os.Environ()
	if g := r.granted.Gateway; g != nil {
		var removed []string
		r.env, removed = models(r.env, g, r.handle)
		r.ready.plan.Notes = append(r.ready.plan.Notes, modelsNote(g, removed))
	}
	r.announce()
	return r.become()
}

// read collects what the launch says.
func (r *runner) read() (*attend.Launch, error) {
	var err error
	if r.program, err = findProgram(r.options.Argv[0]); err != nil {
		return nil, err
	}
	l := &attend.Launch{
		Name: r.options.Name, Program: r.program.path, ProgramFD: int32(r.program.fd),
		RunnerPID: int32(os.Getpid()), DryRun: r.options.DryRun, Budget: r.options.Budget, ManifestSigners: r.options.ManifestSigners,
	}
	r.handle, l.HandleHash = drawHandle()
	for _, argument := range r.options.Argv { // for people: what is executed has them as they are
		l.Argv = append(l.Argv, strings.ToValidUTF8(argument, "\ufffd"))
	}
	if l.ManifestSigners != "" { // raypherd works in another folder
		if l.ManifestSigners, err = filepath.Abs(l.ManifestSigners); err != nil {
			return nil, fmt.Errorf("signers %s: %w", r.options.ManifestSigners, err)
		}
	}
	if l.Home = os.Getenv("HOME"); !filepath.IsAbs(l.Home) {
		l.Home = "/"
	}
	if path := r.options.PolicyPath; strings.HasPrefix(path, attend.FleetPolicy) {
		l.PolicyPath = path // raypherd has it
	} else if path != "" {
		if l.Policy, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("policy: %w: name a policy file: raypher policy check tells whether one is good", err)
		}
		if len(l.Policy) == 0 {
			return nil, fmt.Errorf("policy: %s is empty", path)
		}
		l.PolicyPath = path
	}
	if path := file.In(r.options.ManifestPath); path != "" {
		r.options.ManifestPath = path
		if l.Manifest, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("manifest: %w: name the skill's folder, or the manifest in it", err)
		}
		if len(l.Manifest) == 0 {
			return nil, fmt.Errorf("manifest: %s is empty", path)
		}
		if l.ManifestPath, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
	}
	return l, nil
}

// openReport opens the report as the user who asked for it, while nothing is given up yet.
func (r *runner) openReport() error {
	if r.options.ReportPath == "" {
		return nil
	}
	fd, err := unix.Open(r.options.ReportPath, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("report %s: %w", r.options.ReportPath, err)
	}
	r.report = fd
	return nil
}

// startWarden starts the warden with nothing of ours but the standard error and its end of the conversation.
func (r *runner) startWarden() error {
	own, theirs, err := warden.NewConversation()
	if err != nil {
		return err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	argv := r.options.Warden
	path := "/proc/self/exe"
	if len(argv) == 0 {
		argv = []string{os.Args[0], "warden"}
	}
	argv = append(slices.Clone(argv), "--socket", r.socket)
	if r.options.JSON {
		argv = append(argv, "--json")
	}
	output := 2
	var st unix.Stat_t
	if r.options.Quiet || unix.Fstat(2, &st) != nil {
		output = int(null.Fd())
	}
	files := []int{int(null.Fd()), int(null.Fd()), output, theirs.FD()}
	for _, more := range []struct {
		flag string
		fd   int
	}{{"--trace-fd", r.options.TraceFD}, {"--report-fd", r.report}} {
		if more.fd > 0 {
			argv = append(argv, more.flag, strconv.Itoa(len(files)))
			files = append(files, more.fd)
			defer unix.CloseOnExec(more.fd)
		}
	}
	_, err = command{
		path: path, argv: argv, env: os.Environ(),
		files: files,
		plain: true,
	}.start()
	if err != nil {
		return err
	}
	r.talk = own
	return nil
}

// ask asks for the guard.
func (r *runner) ask(request *attend.Launch) error {
	body, err := attend.Marshal(request)
	if err != nil {
		return fmt.Errorf("ask for the guard: %w", err)
	}
	if err := r.talk.Send(warden.Launch, body); err != nil {
		return fmt.Errorf("the warden ended: %w", err)
	}
	return nil
}

// expect waits for a message of the warden.
func (r *runner) expect(want warden.Kind) ([]byte, error) {
	kind, body, err := r.hear()
	if err == nil && kind != want {
		err = fmt.Errorf("the warden sent %q instead of %q", kind, want)
	}
	return body, err
}

// hear waits for the warden's next message. That it failed is an error.
func (r *runner) hear() (warden.Kind, []byte, error) {
	kind, body, _, err := r.talk.Receive()
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("the warden ended without a word")
	case err == nil && kind == warden.Failed:
		err = errors.New(string(body))
	}
	return kind, body, err
}

// hostLimits says what no permit opens: the folders of the guard and of the system's instance, and what the kernel is switched
// with. bind adds the folders of every instance that raypherd knows of.
func (r *runner) hostLimits() error {
	mounts, err := floor.ReadMounts()
	if err != nil {
		return err
	}
	r.limits = floor.Options{
		Closed:  mounts.Everywhere([]string{instance.DefaultState, instance.DefaultRun, filepath.Dir(r.socket)}),
		Sealed:  append(mounts.Everywhere(instance.Sealed()), mounts.Kernel()...),
		Devices: r.terminals, Mounts: mounts, Root: os.Geteuid() == 0,
	}
	return nil
}

// become takes the floor and executes the program.
func (r *runner) become() error {
	visaPath, files, err := r.visaFile()
	if err != nil {
		return err
	}
	if err := r.program.unchanged(); err != nil {
		return err
	}
	if err := r.isolate(); err != nil {
		return err
	}
	if err := floor.DropPrivileges(0); err != nil {
		return err
	}
	if err := r.ready.plan.Apply(); err != nil {
		return err
	}
	body, err := json.Marshal(warden.Floor{
		Task: unix.Gettid(), Grants: r.ready.plan.Grants, Open: r.ready.plan.Open, Devices: r.ready.limits.Devices, Closed: r.ready.limits.Closed, Sealed: r.ready.limits.Sealed,
		VisaFile: len(files) > 0, Static: r.ready.plan.Static, Signals: r.options.decidesSignals(),
	})
	if err != nil {
		return err
	}
	listener, err := r.ready.filter.Install()
	if err != nil {
		return err
	}
	// Another thread hands it over: this one is under the filter, and nobody answers it yet.
	handed := make(chan error)
	go func() {
		err := r.talk.Send(warden.Listener, body, append([]int{listener}, files...)...)
		if err == nil || errors.Is(err, unix.EPIPE) { // a warden that ended meanwhile has said why
			_, err = r.expect(warden.Serving)
		}
		handed <- err
	}()
	if err := <-handed; err != nil {
		return err
	}
	return r.execute(visaPath)
}

// visaFile returns the path at which the agent finds its visa. Where opens are not notified it is a file in memory that the
// program inherits.
func (r *runner) visaFile() (path string, files []int, err error) {
	if r.ready.permit.Filesystem != nil && !r.granted.FilesHeld && !r.ready.plan.Static {
		return r.granted.VisaPath, nil, nil
	}
	fd, err := warden.VisaFile(r.granted.Visa)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), []int{fd}, nil
}

func (r *runner) execute(visaPath string) error {
	own := map[string]string{
		instance.VisaVariable:        visaPath,
		instance.AgentSocketVariable: r.granted.AgentSocket,
		instance.AgentIDVariable:     r.granted.AgentID,
	}
	env := slices.DeleteFunc(r.env, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := own[name]
		return replaced || name == namespaceVariable
	})
	for _, name := range []string{instance.VisaVariable, instance.AgentSocketVariable, instance.AgentIDVariable} {
		env = append(env, name+"="+own[name])
	}
	err := r.program.execute(r.options.Argv, env)
	code := CodeNotExecutable
	if errors.Is(err, unix.ENOENT) {
		code = CodeNotFound
		if r.program.script {
			err = errors.New("its interpreter does not exist")
		}
	}
	return &Failure{Code: code, Err: fmt.Errorf("%s: %w", r.program.path, err)}
}
