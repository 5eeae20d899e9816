package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/parent/nitrotpm"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// The waits for an enclave.
const (
	startTimeout = 30 * time.Second // for a local one to come up
	waitTimeout  = 5 * time.Second  // for one that runs already; agents of an earlier raypherd must not wait longer
	firstRestart = 500 * time.Millisecond
	lastRestart  = 30 * time.Second
)

// enclave is the enclave of this raypherd: one that runs already, or a local process that is started again when it ends.
type enclave struct {
	log      *slog.Logger
	attached atomic.Pointer[func()] // called whenever it was connected; nil: nobody is

	mu     sync.Mutex
	link   *link.Link // nil while a local one is down
	reason error      // why it is nil

	kept  *ceilings // of an enclave that forgets its ceiling; nil: it keeps it itself
	local bool      // keep closes the link
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// openEnclave connects to an enclave that runs already: at a unix socket, or in a machine of its own, which is sent its start configuration and
// has to show what it is.
func openEnclave(ctx context.Context, o Options, store *audit.Store) (*enclave, error) {
	p, log := o.Paths, o.Log
	e := &enclave{log: log, stop: func() {}}
	options := link.Options{
		Address: "unix:" + o.EnclaveSocket, PinFile: filepath.Join(p.Keys, link.PinFile), Egress: o.EnclaveEgress, Attached: e.connected, Store: store, Log: log,
	}
	vouch, roots, err := o.vouch()
	if err == nil {
		err = os.MkdirAll(p.Keys, 0o700)
	}
	if err == nil && o.EnclaveMachine == "" {
		// Its configuration lies elsewhere. A copy beside the keys says who its controller is.
		if copied, readErr := startconf.Read(p.Keys); readErr == nil && copied.Controller != "" {
			options.Egress = append(slices.Clone(options.Egress), copied.Controller)
		}
		options.Caller, err = link.OpenCaller(p.Keys)
		if o.EnclaveTier != "" {
			options.Vouch = vouch
		}
	} else if err == nil {
		e.kept = &ceilings{folder: p.Keys, log: log}
		options.Vouch, options.Prepare = vouch, e.kept.restore
		if o.TPMDevice != "" {
			options.InstanceDocument = nitrotpm.At(o.TPMDevice).Document
		}
		err = o.machine(&options, roots)
	}
	if err != nil {
		return nil, fmt.Errorf("enclave: %w", err)
	}
	l, err := link.Dial(options)
	if err != nil {
		return nil, fmt.Errorf("enclave: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	if err := l.Wait(ctx); err != nil {
		if !errors.Is(err, link.ErrUnreachable) || errors.Is(err, link.ErrPeer) {
			return nil, errors.Join(err, l.Close())
		}
		// Not a reason to refuse: agents of an earlier raypherd keep what their visas grant.
		log.Warn("no agent can be started yet", "reason", err)
	}
	e.link = l
	return e, nil
}

// machine fills in how an enclave in a machine of its own is reached and what it is started with.
func (o Options) machine(l *link.Options, roots []startconf.KeyHash) (err error) {
	l.Address = fmt.Sprintf("%s:%d", o.EnclaveMachine, o.EnclavePort)
	l.ConfigureAt = fmt.Sprintf("%s:%d", o.EnclaveMachine, o.EnclavePort+1)
	if l.Caller, err = link.Prepare(o.Paths.Keys, func(text string) { o.Log.Info(text) }, roots...); err != nil {
		return err
	}
	path := filepath.Join(o.Paths.Keys, startconf.FileName)
	c, err := startconf.Read(path)
	if err != nil {
		return err
	}
	for _, root := range roots {
		if !slices.Contains(c.NitroRoots, root) {
			o.Log.Warn("an enclave that is started anew will not follow the journal of this one: its start configuration does not name the root", "file", path, "add", "nitro_root = "+root.String())
		}
	}
	l.Configuration, err = os.ReadFile(path)
	return err
}

// startEnclave starts a local enclave and keeps one running.
func startEnclave(ctx context.Context, o link.LocalOptions) (*enclave, error) {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	e := &enclave{log: o.Log, local: true}
	local, err := link.StartLocal(starting, o)
	if err != nil {
		return nil, err
	}
	e.link = local.Link
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	e.done.Add(1)
	go func() {
		defer e.done.Done()
		e.keep(ctx, local, o)
	}()
	return e, nil
}

// keep starts the local enclave again when it ends, until ctx ends; then it ends it.
func (e *enclave) keep(ctx context.Context, local *link.Local, o link.LocalOptions) {
	wait := firstRestart
	for {
		select {
		case <-local.Ended():
			e.log.Error("the enclave process ended: nothing is granted until it runs again; agents keep what their visas grant")
			e.set(nil, errors.New("its process ended"))
			if err := local.Close(); err != nil {
				e.log.Warn("closing the link to the ended enclave", "error", err)
			}
		case <-ctx.Done():
			if err := local.Close(); err != nil {
				e.log.Warn("ending the enclave", "error", err)
			}
			return
		}
		for {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			wait = min(2*wait, lastRestart)
			starting, cancel := context.WithTimeout(ctx, startTimeout)
			again, err := link.StartLocal(starting, o)
			cancel()
			if err != nil {
				e.log.Error("the enclave does not come up again", "error", err)
				e.set(nil, err)
				continue
			}
			local, wait = again, firstRestart
			e.exchange(local.Link)
			break
		}
	}
}

func (e *enclave) set(l *link.Link, reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.link, e.reason = l, reason
}

// exchange is set for a local enclave that was started again.
func (e *enclave) exchange(l *link.Link) {
	e.set(l, nil)
	e.connected()
}

// get returns the link, or why there is none; the error wraps link.ErrUnreachable.
func (e *enclave) get() (*link.Link, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link == nil {
		return nil, fmt.Errorf("%w: %w: raypherd starts it again", link.ErrUnreachable, e.reason)
	}
	return e.link, nil
}

// close ends the connection, and a local enclave with it.
func (e *enclave) close() error {
	e.stop()
	e.done.Wait()
	if e.local {
		return nil
	}
	return e.link.Close()
}

func (e *enclave) Mint(ctx context.Context, r *enclavev1.MintRequest) (*enclavev1.MintReply, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.Mint(ctx, r)
}

func (e *enclave) Describe(ctx context.Context) (*enclavev1.Description, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.Describe(ctx)
}

func (e *enclave) InstallCeiling(ctx context.Context, bundle []byte) (*enclavev1.Description, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	if e.kept != nil {
		return e.kept.install(ctx, l, bundle)
	}
	return l.InstallCeiling(ctx, bundle)
}

func (e *enclave) Attest(ctx context.Context, nonce []byte) (*enclavev1.Evidence, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.Attest(ctx, nonce)
}

func (e *enclave) InstallGrant(ctx context.Context, grant []byte) (*enclavev1.GrantStatus, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.InstallGrant(ctx, grant)
}

func (e *enclave) DescribeGrant(ctx context.Context) (*enclavev1.GrantStatus, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.DescribeGrant(ctx)
}

func (e *enclave) DescribeFleet(ctx context.Context) (*enclavev1.FleetStatus, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.DescribeFleet(ctx)
}

// Reachable says whether visas can be granted now, and if not, why.
func (e *enclave) Reachable() error {
	l, err := e.get()
	if err != nil {
		return err
	}
	return l.Reachable()
}

// recordApproval is what the desk of questions calls.
func (e *enclave) recordApproval(ctx context.Context, approval []byte) ([]byte, uint64, error) {
	l, err := e.get()
	if err != nil {
		return nil, 0, err
	}
	epoch, index, err := l.RecordApproval(ctx, approval)
	return epoch[:], index, err
}

// record is what the event hub calls.
func (e *enclave) record(ctx context.Context, verdicts [][]byte) ([]byte, uint64, error) {
	l, err := e.get()
	if err != nil {
		return nil, 0, err
	}
	epoch, first, err := l.Record(ctx, verdicts...)
	if errors.Is(err, link.ErrInvalid) {
		return nil, 0, fmt.Errorf("%w: %w", events.ErrRefused, err)
	}
	return epoch[:], first, err
}
