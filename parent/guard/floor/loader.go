package floor

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/raypher/raypher/policy"
)

// knownLoaders are where the ELF specifications of the C libraries put the dynamic loader.
var knownLoaders = []string{
	"/lib64/ld-linux-x86-64.so.2",
	"/lib/ld-linux-aarch64.so.1",
	"/lib/ld-musl-x86_64.so.1",
	"/lib/ld-musl-aarch64.so.1",
}

// MaxScriptLine is how much of a script's first line the kernel looks at (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h).
const MaxScriptLine = 256

// Interpreter is what the kernel executes first in place of a program: the dynamic loader of an ELF file (PT_INTERP), or the
// interpreter in a script's first line. It is empty for a static program.
type Interpreter struct {
	Path   string
	Script bool
}

// InterpreterOf reads a program's header. Anything that the kernel would refuse to execute is no error here: it has no
// interpreter.
func InterpreterOf(program io.ReaderAt) (Interpreter, error) {
	head := make([]byte, MaxScriptLine)
	n, err := program.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Interpreter{}, fmt.Errorf("read program: %w", err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		path, _ := ScriptInterpreter(head)
		return Interpreter{Path: path, Script: true}, nil
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return Interpreter{Path: elfLoader(program)}, nil
	}
	return Interpreter{}, nil
}

// ScriptInterpreter is the first word after the #! at the head of a file, as fs/binfmt_script.c finds it. head is what the
// file starts with, at most MaxScriptLine bytes of it. It is false when head is no script.
func ScriptInterpreter(head []byte) (path string, script bool) {
	line, script := bytes.CutPrefix(head[:min(len(head), MaxScriptLine)], []byte("#!"))
	if !script {
		return "", false
	}
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	line = bytes.TrimLeft(line, " \t")
	if end := bytes.IndexAny(line, " \t\x00"); end >= 0 {
		line = line[:end]
	}
	return string(line), true
}

func elfLoader(program io.ReaderAt) string {
	file, err := elf.NewFile(program)
	if err != nil {
		return ""
	}
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_INTERP || segment.Filesz > 4096 {
			continue
		}
		name := make([]byte, segment.Filesz)
		if _, err := segment.ReadAt(name, 0); err != nil {
			return ""
		}
		return string(bytes.TrimRight(name, "\x00"))
	}
	return ""
}

// Loaders are the dynamic loaders of an agent's program and of the programs that its permit names one by one.
func Loaders(permit *policy.Policy, program string) []string {
	paths := []string{program}
	if f := permit.Filesystem; f != nil {
		for _, pattern := range f.Exec {
			if path, rest := splitPattern(pattern); rest == "" {
				paths = append(paths, path)
			}
		}
	}
	return loadersOf(paths, maxProgramsRead)
}

// loadersOf returns the loaders that the programs among paths need, with their links resolved, and those of the usual C
// libraries. At most limit programs are read.
func loadersOf(paths []string, limit int) []string {
	found := map[string]bool{}
	for _, path := range knownLoaders {
		found[path] = true
	}
	for _, path := range paths {
		if limit--; limit < 0 {
			break
		}
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		interpreter, err := InterpreterOf(file)
		file.Close()
		if err == nil && !interpreter.Script && strings.HasPrefix(interpreter.Path, "/") {
			found[interpreter.Path] = true
		}
	}
	var loaders []string
	for path := range found {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			loaders = append(loaders, real)
		}
	}
	return loaders
}
