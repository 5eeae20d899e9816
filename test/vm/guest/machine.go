package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Who lives in the machine. The group is that of those who run agents.
const (
	userID  = 1000
	groupID = 900
)

// patient bounds one command; an emulated machine on a busy host takes its time.
const patient = 3 * time.Minute

// machine is the guest.
type machine struct {
	failed   bool
	backend  string // that agents run under
	raypherd *exec.Cmd
	log      bytes.Buffer
}

func (m *machine) fail(format string, args ...any) {
	m.failed = true
	fmt.Printf("GUEST FAIL: "+format+"\n", args...)
}

// furnish mounts what a system has, and makes users, files and sockets.
func (m *machine) furnish() error {
	for _, one := range []struct{ kind, path string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"tmpfs", "/home"},
		{"cgroup2", "/sys/fs/cgroup"}, {"securityfs", "/sys/kernel/security"},
	} {
		if err := os.MkdirAll(one.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(one.kind, one.path, one.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", one.path, err)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	err = errors.Join(netlink.LinkSetUp(loopback), os.Chmod("/tmp", 0o1777), os.Setenv("PATH", "/bin"), os.Chmod("/dev/null", 0o666))
	files := map[string]string{
		"/etc/passwd":      "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nraypher-enclave:x:901:901::/:/bin/false\n",
		"/etc/group":       "root:x:0:\nuser:x:1000:\ngames:x:60:\nraypher:x:900:user\nraypher-enclave:x:901:\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\n",
		policyPath:         policyText,
	}
	for _, home := range homes {
		for name, content := range homeFiles {
			files[home+"/"+name] = content
		}
	}
	for path, content := range files {
		err = errors.Join(err, os.MkdirAll(path[:strings.LastIndexByte(path, '/')], 0o755), os.WriteFile(path, []byte(content), 0o644))
	}
	for path := range files {
		if strings.HasPrefix(path, homes[userID]+"/") {
			err = errors.Join(err, os.Chown(path, userID, userID))
		}
	}
	err = errors.Join(err, os.Chown(homes[userID], userID, userID), os.Chown(homes[userID]+"/work", userID, userID))
	for _, path := range []string{grantedSocket, otherSocket} {
		err = errors.Join(err, serve(path))
	}
	return err
}

// serve answers on a unix socket that everybody may connect to.
func serve(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "served")
			conn.Close()
		}
	}()
	return os.Chmod(path, 0o666)
}

// startDaemon starts raypherd and waits until it serves.
func (m *machine) startDaemon(flags ...string) error {
	began := time.Now()
	m.raypherd = exec.Command("/bin/raypherd", flags...)
	m.raypherd.Stdout, m.raypherd.Stderr = &m.log, &m.log
	if err := m.raypherd.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(2 * patient); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if out := m.command(0, "/bin/raypher", "status"); out.code == 0 {
			fmt.Printf("GUEST raypherd serves after %v\n", time.Since(began).Round(time.Millisecond))
			return nil
		}
	}
	return fmt.Errorf("raypherd did not come up:\n%s", m.log.String())
}

// killDaemon ends raypherd as a crash would.
func (m *machine) killDaemon() {
	_ = m.raypherd.Process.Kill()
	_ = m.raypherd.Wait() // it was killed
}

// outcome is what a command did.
type outcome struct {
	code           int
	stdout, stderr string
}

// command runs a program as a user to its end.
func (m *machine) command(uid int, argv ...string) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := prepare(ctx, uid, argv...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return outcome{-1, "", err.Error()}
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func prepare(ctx context.Context, uid int, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/bin", "HOME=" + homes[uid]}
	cmd.Dir = homes[uid] + "/work"
	cmd.WaitDelay = 5 * time.Second
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{groupID}}}
	}
	return cmd
}

// yama sets kernel.yama.ptrace_scope.
func yama(scope int) error {
	return os.WriteFile("/proc/sys/kernel/yama/ptrace_scope", []byte(strconv.Itoa(scope)), 0)
}
