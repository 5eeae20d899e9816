package broker

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// BenchmarkAnswer is what deciding one open costs the warden, without receiving and answering its notification.
func BenchmarkAnswer(b *testing.B) {
	permit := &policy.Policy{Mode: policy.Enforce, Filesystem: &policy.Filesystem{Read: []string{"/usr/**", "/etc/pass*"}}}
	for _, bb := range []struct {
		name, path string
		want       answerKind
	}{
		{"decided", "/usr/bin/env", answerContinue},
		{"through a link", "/bin/env", answerContinue},
		{"opened", "/etc/passwd", answerInject},
	} {
		b.Run(bb.name, func(b *testing.B) {
			broker := &Broker{options: Options{
				Permit: permit, Coverage: floor.Covers([]floor.Grant{{Path: "/usr", Tree: true, Access: policy.Read}}, false),
			}}
			broker.calls = callTable(permit)
			broker.rules.Store(newRuling(permit, false))
			w := &worker{Broker: broker}
			n := w.heldOpen(b, bb.path)
			for b.Loop() {
				a := w.answer(n)
				if a.kind != bb.want {
					b.Fatalf("%+v", a)
				}
				if a.kind == answerInject {
					unix.Close(a.fd)
				}
			}
		})
	}
}

// heldOpen is the notification of a thread of this process that waits in an open of path until the benchmark ends.
func (w *worker) heldOpen(b *testing.B, path string) *notification {
	listener, done := make(chan int), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends under its filter
		program, err := floor.Filter{Permit: w.options.Permit}.Assemble()
		if err == nil {
			err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		}
		fd := -1
		if err == nil {
			fd, err = program.Install()
		}
		if err != nil {
			b.Error(err)
		}
		listener <- fd
		if err == nil {
			_, _ = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	}()
	w.options.Listener = <-listener
	if w.options.Listener < 0 {
		b.FailNow()
	}
	var n notification
	if err := receive(w.options.Listener, &n); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		w.send(&n, fail(unix.ECANCELED))
		<-done
		unix.Close(w.options.Listener)
	})
	return &n
}
