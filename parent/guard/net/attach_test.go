package netguard

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// newService makes the cgroup of a service two folders below another cgroup than the agents', with one of its own below it, and starts a
// probe in each of these three.
func (w *world) newService(t *testing.T) (service agent, outside, inside, below *probe) {
	t.Helper()
	above := &world{}
	above.makeCgroup(t)
	slice := above.newAgent(t, "some.slice")
	service = (&world{cgroupPath: slice.dir}).newAgent(t, "some.service")
	deeper := (&world{cgroupPath: service.dir}).newAgent(t, "deeper")
	return service, w.startProbe(t, slice.fd), w.startProbe(t, service.fd), w.startProbe(t, deeper.fd)
}

// TestAttached: programs that run already in a cgroup elsewhere, and below it, are held from the moment of the attachment on, their
// open connections too, and nobody beside them. Detached they are as before.
func TestAttached(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:80", "10.77.0.2:81"} {
		w.serve(t, w.far, mustAddr(a))
	}
	g := w.load(t, Options{})
	service, outside, inside, below := w.newService(t)
	inside.expect(action{Do: "open", To: mustAddr("10.77.0.2:81")}, "", answer)
	below.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, "", answer)

	events := record(t, g)
	arm(t, g, service, &policy.Network{Egress: []string{"10.77.0.2:80"}, OnDeny: policy.Reject}, policy.Enforce)
	must(t, g.Attach(service.dir))
	if got := g.Attached(); !slices.Equal(got, []uint64{service.id}) {
		t.Errorf("attached to %v, want %d", got, service.id)
	}
	inside.expect(action{Do: "say"}, silence, "")
	inside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	for _, p := range []*probe{inside, below} {
		p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, refused, "")
	}
	outside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, "", answer)
	e := events.wait(t, "of the service", func(e Event) bool { return e.Operation == "connect" })
	if e.CgroupID != service.id || e.Reason != NotGranted {
		t.Errorf("event %+v; want of cgroup %d, not granted", e, service.id)
	}

	must(t, g.Replace(service.id, &policy.Network{Egress: []string{"10.77.0.2:81"}, OnDeny: policy.Reject}))
	below.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, "", answer)
	must(t, g.Renew(service.id, 1))
	below.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, refused, "")

	must(t, g.Detach(service.id))
	must(t, g.Disarm(service.id))
	if got := g.Attached(); len(got) != 0 {
		t.Errorf("attached to %v, want none", got)
	}
	inside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, "", answer)
}

// TestAttachedStays: what is attached goes on without raypherd, and the next one finds it.
func TestAttachedStays(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:80", "10.77.0.2:81"} {
		w.serve(t, w.far, mustAddr(a))
	}
	bpffs := t.TempDir()
	must(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bpffs, 0)) })
	pins := filepath.Join(bpffs, "guard")
	first := w.load(t, Options{PinDir: pins})
	service, _, inside, _ := w.newService(t)
	arm(t, first, service, &policy.Network{Egress: []string{"10.77.0.2:80"}, OnDeny: policy.Reject}, policy.Enforce)
	must(t, first.Attach(service.dir))
	must(t, first.Close())
	inside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, refused, "")
	inside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)

	second := w.load(t, Options{PinDir: pins})
	if got := second.Attached(); !slices.Equal(got, []uint64{service.id}) {
		t.Errorf("found attached %v, want %d", got, service.id)
	}
	must(t, second.Attach(service.dir))
	inside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, refused, "")
	must(t, second.Detach(service.id))
	inside.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, "", answer)
	if _, err := os.Stat(second.attachedPins(service.id)); !os.IsNotExist(err) {
		t.Errorf("pins of the service remain: %v", err)
	}
	must(t, second.Unpin())
}
