package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// Exit codes, those of env(1) and its like.
const (
	CodeGuard         = 125 // the guard could not be set up, and the program was not started
	CodeNotExecutable = 126 // the program was found and cannot be executed, or the policy does not let it
	CodeNotFound      = 127
)

// Failure is why the program was not started, with the exit code that says so.
type Failure struct {
	Code int
	Err  error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

func guardFailure(format string, args ...any) *Failure {
	return &Failure{Code: CodeGuard, Err: fmt.Errorf(format, args...)}
}

// program is what will be executed.
type program struct {
	name   string // as the caller wrote it
	path   string // absolute, as it was found; links are not resolved
	real   string // where the object lies
	fd     int    // O_PATH, closed on exec
	script bool   // executed by its interpreter
}

// findProgram looks for a program as execvp(3) does: in PATH unless the name has a slash.
func findProgram(name string) (*program, error) {
	if strings.Contains(name, "/") {
		return openProgram(name, name)
	}
	var denied error
	for _, folder := range strings.Split(os.Getenv("PATH"), ":") {
		if folder == "" {
			folder = "."
		}
		p, err := openProgram(name, filepath.Join(folder, name))
		if err == nil {
			return p, nil
		}
		var f *Failure
		if errors.As(err, &f) && f.Code == CodeNotExecutable && denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return nil, denied
	}
	return nil, &Failure{Code: CodeNotFound, Err: fmt.Errorf("%s: no such program in PATH", name)}
}

func openProgram(name, path string) (*program, error) {
	fail := func(code int, err error) (*program, error) {
		return nil, &Failure{Code: code, Err: fmt.Errorf("%s: %w", path, err)}
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fail(CodeGuard, err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fail(CodeNotFound, err)
	case err != nil:
		return fail(CodeNotExecutable, err)
	}
	p := &program{name: name, path: absolute, fd: fd}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = unix.EACCES
	default:
		// By the effective user, as the kernel will check it.
		err = unix.Faccessat(unix.AT_FDCWD, p.own(), unix.X_OK, unix.AT_EACCESS)
	}
	if err == nil {
		p.real, err = os.Readlink(p.own())
	}
	if err != nil {
		unix.Close(fd)
		return fail(CodeNotExecutable, err)
	}
	p.script = isScript(p.own())
	return p, nil
}

// own is the program's path through this process's descriptor.
func (p *program) own() string { return fmt.Sprintf("/proc/self/fd/%d", p.fd) }

func isScript(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false // may be executed and not read: a script could not be run anyway
	}
	defer file.Close()
	head := make([]byte, floor.MaxScriptLine)
	n, _ := file.Read(head)
	_, script := floor.ScriptInterpreter(head[:n])
	return script
}

// granted says in words what the policy lacks for the program to be executed.
func (p *program) granted(permit *policy.Policy) error {
	rules := permit.FileRules()
	if !rules.Governed() || permit.Mode != policy.Enforce && permit.Mode != "" {
		return nil
	}
	path, what := p.real, "the program"
	for range 5 {
		switch d := rules.Decide(path, policy.Exec); {
		case d.Verdict == policy.VerdictAllow:
		case d.Rule != "":
			return fmt.Errorf("%s: the policy does not let it be executed (rule %s)", path, d.Rule)
		default:
			return fmt.Errorf("%s: the policy does not let %s be executed: add it to filesystem.exec", path, what)
		}
		file, err := os.Open(path)
		if err != nil {
			return nil
		}
		head := make([]byte, floor.MaxScriptLine)
		n, _ := file.Read(head)
		file.Close()
		interpreter, script := floor.ScriptInterpreter(head[:n])
		if !script {
			return nil
		}
		if path, err = filepath.EvalSymlinks(interpreter); err != nil {
			return nil // the kernel will say so
		}
		what = "the script's interpreter"
	}
	return nil
}

// execute becomes the program. It returns only when that failed. argv[0] is what the caller wrote.
//
// A binary is executed over the descriptor that was looked at, so that nothing can be put in its place. A script is executed by
// its path, because its interpreter opens it again by the name that it is given; that the path still leads to the same file is
// checked right before.
func (p *program) execute(argv, env []string) error {
	arguments, err := pointers(argv)
	if err != nil {
		return err
	}
	environment, err := pointers(env)
	if err != nil {
		return err
	}
	if p.script {
		return execveat(unix.AT_FDCWD, p.path, arguments, environment, 0)
	}
	return execveat(p.fd, "", arguments, environment, unix.AT_EMPTY_PATH)
}

// unchanged says whether the program's path still leads to the file that was found.
func (p *program) unchanged() error {
	var now, found unix.Stat_t
	if err := errors.Join(unix.Stat(p.path, &now), unix.Fstat(p.fd, &found)); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	if now.Dev != found.Dev || now.Ino != found.Ino {
		return fmt.Errorf("%s: it was replaced while the guard was being set up", p.path)
	}
	return nil
}
