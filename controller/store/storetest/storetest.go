// Package storetest gives tests of the controller databases: a SQLite file, and a PostgreSQL that it starts from Debian's package.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/controller/store"
)

// Each runs f against an empty database of each kind, named by its url. Where PostgreSQL cannot be had its run is skipped, in words.
func Each(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, filepath.Join(t.TempDir(), "controller.db")) })
	t.Run("postgresql", func(t *testing.T) { f(t, Postgres(t)) })
}

// Open opens a database until the test ends.
func Open(t testing.TB, url string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Postgres returns the url of an empty database in a PostgreSQL that all tests of this process share.
func Postgres(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	if s.none != nil {
		t.Skip(s.none)
	}
	name := fmt.Sprintf("test%d", databases.Add(1))
	if out, err := s.command("createdb", "-h", s.dir, "-U", "raypher", name).CombinedOutput(); err != nil {
		t.Fatalf("createdb: %v\n%s", err, out)
	}
	return fmt.Sprintf("postgres://raypher@/%s?host=%s", name, s.dir)
}

var (
	databases atomic.Int64
	shared    = sync.OnceValues(start)
)

// server is a PostgreSQL on a unix socket in a folder that only its user can enter.
type server struct {
	none     error // why it cannot be had here
	programs string
	dir      string
	as       *syscall.Credential
	lives    *os.File // the server ends when this is closed, as the end of this process does
}

func (s *server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.programs, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + s.dir, "TMPDIR=" + s.dir}
	cmd.Dir = s.dir
	return cmd
}

// keeper runs a server until its standard input ends, and removes the server's folder: no test is the last one for sure. SIGQUIT ends it at
// once and without a checkpoint: nobody reads it again.
const keeper = `dir=$1; shift; "$@" & read -r end; kill -QUIT $!; wait $!; cd /; rm -rf "$dir"`

func start() (*server, error) {
	s := &server{}
	if s.programs, s.none = binaries(); s.none != nil {
		return s, nil
	}
	// Not t.TempDir: a socket's path has at most 107 bytes.
	var err error
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return nil, err
	}
	if s.as, s.none = unprivileged(s.dir); s.none != nil {
		return s, os.RemoveAll(s.dir)
	}
	cluster := filepath.Join(s.dir, "data")
	if out, err := s.command("initdb", "-D", cluster, "-U", "raypher", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync").CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w\n%s", err, out), os.RemoveAll(s.dir))
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	end, lives, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	s.lives = lives
	postgres := s.command("postgres", "-D", cluster, "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=80")
	postgres.Path, postgres.Args = "/bin/sh", append([]string{"sh", "-c", keeper, "sh", s.dir}, postgres.Args...)
	postgres.SysProcAttr.Setpgid = true // an interrupt of the tests is for the keeper to see as their end
	postgres.Stdin, postgres.Stdout, postgres.Stderr = end, log, log
	if err := postgres.Start(); err != nil {
		return nil, err
	}
	if err := await(func() *exec.Cmd { return s.command("pg_isready", "-h", s.dir, "-t", "1") }); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, text)
	}
	return s, nil
}

// await repeats a command until it succeeds, for at most a minute.
func await(command func() *exec.Cmd) (err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = command().Run(); err == nil {
			return nil
		}
	}
	return err
}

// binaries finds the newest PostgreSQL as Debian installs it, which keeps the server out of PATH.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", fmt.Errorf("no PostgreSQL here: install Debian's package postgresql (scripts/deps.sh does)")
	}
	sort.Slice(found, func(i, j int) bool { return major(found[i]) < major(found[j]) })
	return filepath.Dir(found[len(found)-1]), nil
}

func major(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// unprivileged is nobody, whom dir is given to, where this process is root: PostgreSQL refuses to be started by root.
func unprivileged(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user nobody: %w", err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
}
