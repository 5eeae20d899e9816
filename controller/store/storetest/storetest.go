// Package storetest gives tests of the controller databases: a SQLite file, and a PostgreSQL that it starts from Debian's package.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
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

var servers atomic.Int64

// Postgres starts a PostgreSQL of its own, on a unix socket in a folder that only its user can enter, and returns the url of an empty
// database in it. It ends with the test.
func Postgres(t testing.TB) string {
	t.Helper()
	programs, err := binaries()
	if err != nil {
		t.Skip(err)
	}
	// Not t.TempDir: a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as, err := unprivileged(dir)
	if err != nil {
		t.Skip(err)
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(programs, name), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGKILL}
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + dir, "TMPDIR=" + dir}
		cmd.Dir = dir
		return cmd
	}
	cluster := filepath.Join(dir, "data")
	if out, err := run("initdb", "-D", cluster, "-U", "raypher", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := strconv.FormatInt(5432+servers.Add(1), 10) // a part of the socket's name, and no more
	// Not through pg_ctl, so that the server is a child and ends with the test.
	server := run("postgres", "-D", cluster, "-k", dir, "-c", "listen_addresses=", "-p", port, "-c", "max_connections=80")
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT) // at once, and without a checkpoint: nobody reads it again
		server.Wait()
	})
	if err := await(func() *exec.Cmd { return run("pg_isready", "-h", dir, "-p", port, "-t", "1") }); err != nil {
		t.Fatalf("PostgreSQL does not answer: %v\n%s", err, log.String())
	}
	return fmt.Sprintf("postgres://raypher@/postgres?host=%s&port=%s", dir, port)
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
