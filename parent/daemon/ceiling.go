package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/parent/link"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Names in the folder of the parent's keys.
const (
	ceilingFile = "ceiling.cose" // the newest bundle that the enclave took
	nextFile    = "ceiling.next" // one that it was asked to take, until it has answered
)

// maxCeiling bounds a bundle, in bytes: what fits into a message to the enclave.
const maxCeiling = 1 << 20

// ceilings keeps the newest ceiling for an enclave that forgets it when it ends, and hands it over again when it was started anew. What
// is in a bundle is the enclave's to judge: it takes none that is older than the one in force, so that versions only go
// upwards as long as this folder is there.
type ceilings struct {
	folder string
	log    *slog.Logger
	turn   sync.Mutex // installs one at a time
}

// install hands a bundle over, and keeps it if the enclave takes it.
func (c *ceilings) install(ctx context.Context, l *link.Link, bundle []byte) (*enclavev1.Description, error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	// First, so that no ceiling is in force that would be forgotten.
	if err := statefile.Write(c.folder, nextFile, bundle); err != nil {
		return nil, fmt.Errorf("keep the ceiling: %w", err)
	}
	d, err := l.InstallCeiling(ctx, bundle)
	return d, errors.Join(err, c.settle(err))
}

// settle makes the bundle that was asked for the newest one, or forgets it, as the enclave's answer says; without an answer it stays.
func (c *ceilings) settle(answer error) error {
	next := filepath.Join(c.folder, nextFile)
	switch {
	case answer == nil:
		if err := os.Rename(next, filepath.Join(c.folder, ceilingFile)); err != nil {
			return fmt.Errorf("keep the ceiling: %w", err)
		}
	case errors.Is(answer, link.ErrUnreachable), errors.Is(answer, context.Canceled), errors.Is(answer, context.DeadlineExceeded):
	default:
		if err := os.Remove(next); err != nil {
			return fmt.Errorf("forget the ceiling: %w", err)
		}
	}
	return nil
}

// restore hands an enclave without a ceiling the newest one. It is called before anybody else may speak to the enclave.
func (c *ceilings) restore(ctx context.Context, l *link.Link) {
	c.turn.Lock()
	defer c.turn.Unlock()
	d, err := l.Describe(ctx)
	if err != nil {
		c.log.Warn("the enclave does not say whether it has a ceiling", "reason", err)
		return
	}
	// The one that nobody answered for is the newest, if it is one.
	if bundle := c.read(nextFile); bundle != nil {
		_, err := l.InstallCeiling(ctx, bundle)
		if err := errors.Join(err, c.settle(err)); err == nil {
			c.log.Info("the ceiling whose installation was cut off is in force")
			return
		}
	}
	if d.GetCeilingVersion() != 0 {
		return
	}
	bundle := c.read(ceilingFile)
	if bundle == nil {
		c.log.Warn("nothing is granted before a ceiling is installed: raypher ceiling install")
		return
	}
	if d, err = l.InstallCeiling(ctx, bundle); err != nil {
		c.log.Error("the enclave does not take the newest ceiling: nothing is granted before another one is installed", "file", filepath.Join(c.folder, ceilingFile), "reason", err)
		return
	}
	c.log.Info("the enclave was started anew and has the newest ceiling again", "version", d.GetCeilingVersion())
}

// read returns a kept bundle; nil: there is none.
func (c *ceilings) read(name string) []byte {
	bundle, err := statefile.Read(filepath.Join(c.folder, name), maxCeiling)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Error("a kept ceiling cannot be read", "reason", err)
	}
	return bundle
}
