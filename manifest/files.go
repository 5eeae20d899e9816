package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Bounds of a skill's folder.
const (
	maxTree   = 65536   // files and folders
	maxHashed = 1 << 30 // bytes of all listed files together
)

// FileProblem is one file that is not as the manifest says.
type FileProblem struct {
	Path    string // below the skill's folder
	Problem string
}

// FilesError names every file of a skill that is not as its manifest says.
type FilesError struct {
	Root     string
	Problems []FileProblem
}

func (e *FilesError) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for i, p := range e.Problems {
		if i == maxNamed {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Problems)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("%q %s", p.Path, p.Problem))
	}
	return fmt.Sprintf("the files in %s are not what was signed: %s", e.Root, strings.Join(lines, "; "))
}

// maxNamed bounds how many files one error names.
const maxNamed = 20

// VerifyFiles checks the skill's folder against hashes: every listed file is there with its digest, and nothing else is there,
// except what the skill may write itself (filesystem.write), as long as that is not code. A listed file in a place that the
// skill may write is refused too: a skill does not rewrite itself. Symbolic links and special files are refused anywhere, since
// a digest says nothing about where they lead. The error is a *FilesError unless the folder cannot be read.
//
// It never leaves root, and does all of its reading on the calling goroutine, so that a caller may lock the thread and lend it
// another file system uid. What it found holds for the moment of the call.
func (m *Manifest) VerifyFiles(root string) error {
	c, err := m.openTree(root)
	if err != nil {
		return err
	}
	defer c.close()
	seen := make(map[string]bool)
	err = c.walk(func(f treeFile) error {
		want, listed := m.Hashes[f.path]
		if !listed {
			return c.unlisted(f)
		}
		seen[f.path] = true
		if rule, ok := c.writable(f.path); ok {
			c.problem(f.path, fmt.Sprintf("is part of the skill, which may write it by %q: take it out of filesystem.write", rule))
		}
		got, err := c.digest(f)
		if err != nil {
			return err
		}
		if got != want {
			c.problem(f.path, "was changed")
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(m.Hashes)) {
		if !seen[p] && !c.refused[p] {
			c.problem(p, "is missing")
		}
	}
	return c.err()
}

// HashFiles sets Hashes to the files of the skill's folder: all but the manifest and what the skill may write itself. Code in a
// place that the skill may write, symbolic links and special files are errors.
func (m *Manifest) HashFiles(root string) error {
	c, err := m.openTree(root)
	if err != nil {
		return err
	}
	defer c.close()
	hashes := make(map[string]string)
	err = c.walk(func(f treeFile) error {
		if _, ok := c.writable(f.path); ok {
			return c.unlisted(f)
		}
		if problem, _ := checkHashedPath(f.path); problem != "" || strings.ToValidUTF8(f.path, "") != f.path {
			c.problem(f.path, "has a name that a manifest cannot hold: rename it")
			return nil
		}
		digest, err := c.digest(f)
		hashes[f.path] = digest
		return err
	})
	if err != nil {
		return err
	}
	if len(hashes) > maxItems {
		return fmt.Errorf("hash the files in %s: there are %d, a manifest lists at most %d: bundle them", root, len(hashes), maxItems)
	}
	if err := c.err(); err != nil {
		return err
	}
	m.Hashes = hashes
	return nil
}

// tree is one walk over a skill's folder.
type tree struct {
	path     string // as given
	root     *os.Root
	writable func(path string) (rule string, ok bool)
	folders  map[string]bool     // folders above listed files
	extra    map[string][]string // files that are not listed, by the topmost folder without listed files, or by their own path
	refused  map[string]bool     // paths that have a problem already
	problems []FileProblem
	hashed   int64 // bytes
}

// treeFile is one regular file.
type treeFile struct {
	path string
	info fs.FileInfo
}

func (m *Manifest) openTree(root string) (*tree, error) {
	resolved, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fmt.Errorf("the skill's folder: %w", err)
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, fmt.Errorf("the skill's folder: %w", err)
	}
	r, err := os.OpenRoot(resolved)
	if err != nil {
		return nil, fmt.Errorf("the skill's folder: %w", err)
	}
	t := &tree{path: root, root: r, writable: m.writable(resolved), folders: map[string]bool{".": true}, extra: map[string][]string{}, refused: map[string]bool{}}
	for p := range m.Hashes {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			t.folders[dir] = true
		}
	}
	return t, nil
}

func (t *tree) close() { t.root.Close() }

func (t *tree) problem(path, problem string) {
	t.refused[path] = true
	t.problems = append(t.problems, FileProblem{path, problem})
}

// walk calls visit for each regular file but the manifest, in lexical order, and notes links and special files as problems.
func (t *tree) walk(visit func(treeFile) error) error {
	count := 0
	return fs.WalkDir(t.root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("the skill's folder: %w", err)
		}
		if count++; count > maxTree {
			return fmt.Errorf("the skill's folder %s: more than %d files and folders", t.path, maxTree)
		}
		switch {
		case e.IsDir() || p == FileName && e.Type().IsRegular():
			return nil
		case e.Type()&fs.ModeSymlink != 0:
			t.problem(p, "is a symbolic link: put the file itself there")
			return nil
		case !e.Type().IsRegular():
			t.problem(p, fmt.Sprintf("is no regular file (%s)", e.Type()))
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("the skill's folder: %w", err)
		}
		return visit(treeFile{p, info})
	})
}

// open opens f, and only f: not what was put in its place since it was listed, and without waiting for a fifo.
func (t *tree) open(f treeFile) (*os.File, error) {
	file, err := t.root.OpenFile(filepath.FromSlash(f.path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("the skill's folder %s: %w", t.path, err)
	}
	if info, err := file.Stat(); err != nil || !os.SameFile(info, f.info) {
		file.Close()
		return nil, fmt.Errorf("the skill's folder %s: %s was replaced while it was read: try again", t.path, f.path)
	}
	return file, nil
}

func (t *tree) digest(f treeFile) (string, error) {
	file, err := t.open(f)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(file, maxHashed-t.hashed+1))
	if err != nil {
		return "", fmt.Errorf("the skill's folder %s: read %s: %w", t.path, f.path, err)
	}
	if t.hashed += n; t.hashed > maxHashed {
		return "", fmt.Errorf("the skill's folder %s: its files have more than %d bytes together", t.path, maxHashed)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// unlisted judges a file that hashes does not name.
func (t *tree) unlisted(f treeFile) error {
	if rule, ok := t.writable(f.path); ok {
		why, err := t.code(f)
		if err != nil || why == "" {
			return err
		}
		t.problem(f.path, fmt.Sprintf("is code (%s) that was not signed, in a place that the skill may write by %q: remove it", why, rule))
		return nil
	}
	top := f.path
	for dir := path.Dir(f.path); !t.folders[dir]; dir = path.Dir(dir) {
		top = dir
	}
	t.extra[top] = append(t.extra[top], f.path)
	return nil
}

// codeSuffixes are names by which an interpreter or an agent takes a file for code without any executable bit.
var codeSuffixes = []string{
	".py", ".pyc", ".pth", ".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".jsx", ".tsx", ".sh", ".bash", ".zsh", ".fish", ".pl", ".pm", ".rb", ".php", ".lua",
	".so", ".node", ".wasm", ".jar", ".class", ".dll", ".exe", ".dylib", ".ps1", ".bat", ".cmd", "skill.md", "agents.md", "claude.md",
}

// code says by what f is code, empty if it is not: its mode, its name, or how it begins.
func (t *tree) code(f treeFile) (why string, err error) {
	if f.info.Mode().Perm()&0o111 != 0 {
		return "executable", nil
	}
	name := strings.ToLower(path.Base(f.path))
	for _, s := range codeSuffixes {
		if strings.HasSuffix(name, s) {
			return "named " + s, nil
		}
	}
	file, err := t.open(f)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("the skill's folder %s: read %s: %w", t.path, f.path, err)
	}
	switch head = head[:n]; {
	case bytes.HasPrefix(head, []byte("#!")):
		return "begins with #!", nil
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return "ELF", nil
	}
	return "", nil
}

// err returns everything that was found, or nil.
func (t *tree) err() error {
	for _, top := range slices.Sorted(maps.Keys(t.extra)) {
		switch files := t.extra[top]; len(files) {
		case 1:
			t.problem(files[0], "was not signed: remove it, or have it signed")
		default:
			t.problem(top, fmt.Sprintf("has %d files that were not signed: remove them, or have them signed", len(files)))
		}
	}
	if len(t.problems) == 0 {
		return nil
	}
	return &FilesError{t.path, t.problems}
}
