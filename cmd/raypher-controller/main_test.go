package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/controller/controllertest"
)

// asProgram in the environment makes the test's own program the controller, so that tests run it as processes.
const asProgram = "RAYPHER_TEST_CONTROLLER"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := command().ExecuteContext(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "raypher-controller:", err)
			os.Exit(1)
		}
		return
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
