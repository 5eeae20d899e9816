package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Server is a PostgreSQL of one test, which may end it, start it again and fill its disk.
type Server struct {
	t        testing.TB
	s        *server
	postgres *exec.Cmd // nil: it does not run
}

// Own starts a PostgreSQL in a folder, which is given to its user; the folder's path is short, as it holds the socket. It ends with the test.
func Own(t testing.TB, dir string) *Server {
	t.Helper()
	s := &server{dir: dir}
	if s.programs, s.none = binaries(); s.none != nil {
		t.Skip(s.none)
	}
	if s.as, s.none = unprivileged(dir); s.none != nil {
		t.Skip(s.none)
	}
	if out, err := s.command("initdb", "-D", filepath.Join(dir, "data"), "-U", "raypher", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--wal-segsize=1").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	own := &Server{t: t, s: s}
	t.Cleanup(own.Kill)
	own.Start()
	return own
}

// URL names its database.
func (o *Server) URL() string { return fmt.Sprintf("postgres://raypher@/postgres?host=%s", o.s.dir) }

// Start starts it and returns when it answers.
func (o *Server) Start() {
	o.t.Helper()
	log, err := os.OpenFile(filepath.Join(o.s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		o.t.Fatal(err)
	}
	defer log.Close()
	o.postgres = o.s.command("postgres", "-D", filepath.Join(o.s.dir, "data"), "-k", o.s.dir, "-c", "listen_addresses=", "-c", "max_connections=40",
		"-c", "min_wal_size=2MB", "-c", "max_wal_size=4MB", "-c", "shared_buffers=16MB")
	o.postgres.Stdout, o.postgres.Stderr = log, log
	o.postgres.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if err := o.postgres.Start(); err != nil {
		o.t.Fatal(err)
	}
	if err := await(func() *exec.Cmd { return o.s.command("pg_isready", "-h", o.s.dir, "-t", "1") }); err != nil {
		text, _ := os.ReadFile(log.Name())
		o.t.Fatalf("PostgreSQL does not answer: %v\n%s", err, text)
	}
}

// Kill ends it at once, as a machine that loses power: what it has not synced is recovered from its log at the next start.
func (o *Server) Kill() {
	if o.postgres != nil {
		o.postgres.Process.Signal(syscall.SIGQUIT)
		o.postgres.Wait()
		o.postgres = nil
	}
}
