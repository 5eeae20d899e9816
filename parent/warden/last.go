package warden

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/attend"
)

// releaseTerminal lets go of the terminal or pipe for messages once the program itself has ended: whoever reads that pipe to
// its end waits for the program, not for what it left in the background. It is called while the runner still waits for this process, so
// its pid is nobody else's; what it returns is closed when everything was said.
func (w *warden) releaseTerminal(ctx context.Context, program int) <-chan struct{} {
	released := make(chan struct{})
	if w.options.Output == nil {
		close(released)
		return released
	}
	pidfd, err := unix.PidfdOpen(program, 0)
	if err != nil {
		close(released)
		return released
	}
	go func() {
		defer close(released)
		defer unix.Close(pidfd)
		for ctx.Err() == nil {
			polled := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
			if n, err := unix.Poll(polled, -1); err == nil && n > 0 {
				break
			}
		}
		w.sayLast()
	}()
	return released
}

// sayLast says what is left to say at the program's end, and lets go of where it was said.
func (w *warden) sayLast() {
	if w.recorder != nil {
		time.Sleep(reportGrace)
		w.sayReport()
	}
	time.Sleep(foldGrace)
	w.settle()
	w.lines.Rest()
	null, err := nullFile()
	if err != nil {
		return
	}
	defer null.Close()
	_ = unix.Dup3(int(null.Fd()), int(w.options.Output.Fd()), unix.O_CLOEXEC)
}

// settle waits until raypherd has told what the kernel refused so far.
func (w *warden) settle() {
	w.line.send(&attend.WardenMessage{Settle: &attend.Settle{}})
	select {
	case <-w.settled:
	case <-w.line.done:
	case <-time.After(settleWait):
	}
}

// settleWait is how long who reads the lines of a program that has ended waits for a raypherd that is away.
const settleWait = 5 * time.Second

// foldGrace is how long after the program's end its last verdicts may still be printed.
const foldGrace = 20 * time.Millisecond

// reportGrace is how long after the program's end what the network guard saw last may take to be in the report.
const reportGrace = 100 * time.Millisecond
