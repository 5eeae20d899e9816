package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/controllertest"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// A full disk: what would write is refused, in words; reading goes on; and so does everything when there is space again, in the same
// process, without anything half done.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: a small volume cannot be mounted")
	}
	volume := t.TempDir()
	if err := syscall.Mount("tmpfs", volume, "tmpfs", 0, "size=3m"); err != nil {
		t.Skip("a small volume cannot be mounted:", err)
	}
	t.Cleanup(func() { // after the process was killed: cleanups run backwards
		if err := syscall.Unmount(volume, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f := controllertest.New(t, filepath.Join(volume, "controller.db"))
	r := f.Start(t, program(t))
	conn := f.AsOperator(t, r)
	add(t, conn, newEnclave(t, "first"))

	filler := filepath.Join(volume, "filler")
	fill(t, filler)

	fleet := controllerv1.NewFleetClient(conn)
	added := 1
	var err error
	for i := range 500 { // until what SQLite has set aside is used up
		e := newEnclave(t, fmt.Sprintf("more-%d", i))
		_, err = fleet.AddHost(short(t), &controllerv1.AddHostRequest{Name: e.Host, Tier: "software", CallerKey: e.Caller.String()})
		if err != nil {
			break
		}
		added++
	}
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("after %d hosts: %v", added, err)
	}
	count := func() int {
		hosts, err := fleet.Hosts(short(t), &controllerv1.HostsRequest{})
		if err != nil {
			t.Fatalf("reading: %v", err)
		}
		return len(hosts.GetHosts())
	}
	if n := count(); n != added {
		t.Errorf("%d hosts, %d were added", n, added)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	add(t, conn, newEnclave(t, "last"))
	if n := count(); n != added+1 {
		t.Errorf("%d hosts, %d were added", n, added+1)
	}
	audit, err := fleet.Audit(short(t), &controllerv1.AuditRequest{})
	if err != nil || len(audit.GetEntries()) != added+1 {
		t.Errorf("%d entries, %v", len(audit.GetEntries()), err)
	}
}
