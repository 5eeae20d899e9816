package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/cmd/internal/usage"
	"github.com/raypher/raypher/controller/controllertest"
)

// asProgram in the environment makes the test's own program the controller, so that tests run it as processes.
const asProgram = "RAYPHER_TEST_CONTROLLER"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(execute(ctx, os.Args[1:], os.Stderr))
	}
	os.Exit(m.Run())
}

// program is the command line of the controller.
func program(t testing.TB) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asProgram, "1")
	return []string{self}
}

// A wrong command line is told from a start that failed, and each says what to do.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "operator.key")
	if code := execute(t.Context(), []string{"keygen", key}, io.Discard); code != 0 {
		t.Fatal(code)
	}
	started := []string{"--state", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0", "--listen-http", ""}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"a flag that is none", []string{"--nosuch"}, usage.Code, "usage: raypher-controller --operator KEY"},
		{"a command that is none", []string{"nosuch"}, usage.Code, "see raypher-controller --help"},
		{"no file", []string{"keygen"}, usage.Code, "usage: raypher-controller keygen"},
		{"two files", []string{"keygen", "a", "b"}, usage.Code, "usage: raypher-controller keygen"},
		{"a duration that is none", []string{"--offline", "x"}, usage.Code, "usage: raypher-controller --operator KEY"},
		{"nobody operates it", started, 1, "give --operator"},
		{"the secret half of a key", append([]string{"--operator", key}, started...), 1, "operator.key.pub"},
		{"a trust domain that is none", append([]string{"--operator", key + ".pub", "--trust-domain", "A B"}, started...), 1, "--trust-domain"},
		{"no database", []string{"renew-identity", "--state", filepath.Join(dir, "nothing")}, 1, "--state"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var said strings.Builder
			if code := execute(ctx, c.args, &said); code != c.code || !strings.Contains(said.String(), c.want) {
				t.Errorf("status %d, expected %d, and %q in\n%s", code, c.code, c.want, said.String())
			}
		})
	}
}

// add names a host of tier software for an enclave.
func add(t testing.TB, operator grpc.ClientConnInterface, e *controllertest.Enclave) {
	t.Helper()
	_, err := controllerv1.NewFleetClient(operator).AddHost(context.Background(), &controllerv1.AddHostRequest{Name: e.Host, Tier: "software", CallerKey: e.Caller.String()})
	if err != nil {
		t.Fatal(err)
	}
}

func newEnclave(t testing.TB, host string) *controllertest.Enclave {
	t.Helper()
	e, err := controllertest.NewEnclave(host)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
