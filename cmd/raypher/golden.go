package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
)

// goldenFlags say which reference values a verifier takes, and by whose signature.
type goldenFlags struct {
	file     string
	keys     []string
	unsigned bool
	state    string
}

func (f *goldenFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.file, "golden", "", "file of golden measurements, signed (raypher attest golden sign): the PCRs must be those of one of its sets")
	flags.StringArrayVar(&f.keys, "golden-key", nil, "public key, PEM, that may sign golden measurements (may be repeated)")
	flags.BoolVar(&f.unsigned, "golden-unsigned", false, "take the YAML of --golden without a signature: whoever can change the file decides")
	flags.StringVar(&f.state, "golden-state", "", "file that keeps the newest golden measurements that were accepted: older ones are refused from then on")
}

// load opens the list; nil: none was named. A flag that is given and empty is an error: a script whose variable is unset must
// not check less.
func (f *goldenFlags) load(flags *pflag.FlagSet) (*golden.List, error) {
	if !flags.Changed("golden") {
		for _, name := range []string{"golden-key", "golden-unsigned", "golden-state"} {
			if flags.Changed(name) {
				return nil, fmt.Errorf("--%s: needs --golden", name)
			}
		}
		return nil, nil
	}
	text, err := readBounded(f.file, golden.MaxFile)
	if err != nil {
		return nil, fmt.Errorf("--golden: %w", err)
	}
	if f.unsigned {
		if len(f.keys) > 0 || flags.Changed("golden-state") {
			return nil, errors.New("--golden-unsigned: takes no --golden-key and no --golden-state: they are for signed files")
		}
		return golden.ParseSource(f.file, text)
	}
	keys, err := f.trusted()
	if err != nil {
		return nil, err
	}
	list, err := golden.Open(text, keys)
	if err != nil {
		return nil, f.named(err)
	}
	if flags.Changed("golden-state") {
		if err := f.remember(list, text, keys); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// named adds the file's name to an error that is no refusal: a refusal's text begins with its check.
func (f *goldenFlags) named(err error) error {
	var refusal *attest.Refusal
	if errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("--golden %s: %w", f.file, err)
}

func (f *goldenFlags) trusted() ([][]byte, error) {
	if len(f.keys) == 0 {
		return nil, errors.New("--golden: needs --golden-key, the public key that may sign it; or say --golden-unsigned")
	}
	var keys [][]byte
	for _, name := range f.keys {
		der, err := readOperatorKey(name)
		if err != nil {
			return nil, fmt.Errorf("--golden-key %s: %w", name, err)
		}
		keys = append(keys, der)
	}
	return keys, nil
}

// remember refuses a list that is older than the one in the state file, and keeps a newer one there.
func (f *goldenFlags) remember(list *golden.List, text []byte, keys [][]byte) error {
	known, err := readBounded(f.state, golden.MaxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("--golden-state: %w", err)
	default:
		before, err := golden.Open(known, keys)
		if err != nil {
			return fmt.Errorf("--golden-state %s: %w: if the golden key was replaced on purpose, remove the file", f.state, err)
		}
		if err := list.Follows(before); err != nil {
			return f.named(err)
		}
		if bytes.Equal(known, text) {
			return nil
		}
	}
	if err := replaceFile(f.state, text); err != nil {
		return fmt.Errorf("--golden-state: %w", err)
	}
	return nil
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, content []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err = errors.Join(err, temporary.Chmod(0o644), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
