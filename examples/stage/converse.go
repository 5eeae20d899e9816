package stage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/examples/scripted"
)

// converse runs the agent, behind the words of before, against the scripted model, and returns the tools' results.
func (s *Scene) converse(ctx context.Context, script *scripted.Script, set *set, before, env []string, log io.Writer) ([]string, error) {
	listener, err := net.Listen("tcp", ModelAddress)
	if err != nil {
		return nil, fmt.Errorf("the scripted model: %w", err)
	}
	model := scripted.NewServer(script)
	server := &http.Server{Handler: model}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Close()
		<-served
	}()

	ctx, cancel := context.WithTimeout(ctx, s.Limit)
	defer cancel()
	command := append(before, s.Command(set.home)...)
	command = append(command, script.Task)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = set.home.Work
	cmd.Env = append([]string{
		"HOME=" + set.home.Dir, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=dumb",
		"OPENAI_BASE_URL=http://" + ModelAddress + "/v1", "OPENAI_API_KEY=scripted",
	}, env...)
	if s.Env != nil {
		cmd.Env = append(cmd.Env, s.Env(set.home)...)
	}
	if s.Person {
		cmd.SysProcAttr = AsPerson()
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the agent: %w (it offered the tools %s, and carried out %d of %d steps)",
			err, strings.Join(model.Tools(), " "), len(model.Results()), len(script.Steps))
	}
	if !model.Done() {
		return nil, fmt.Errorf("the agent ended before the model's last message, after %d of %d steps (it offered the tools %s)",
			len(model.Results()), len(script.Steps), strings.Join(model.Tools(), " "))
	}
	return model.Results(), nil
}

// prefixed puts a prefix before each line. Several goroutines may write to it.
func prefixed(to io.Writer, prefix string) io.Writer { return &prefixer{to: to, prefix: prefix} }

type prefixer struct {
	to     io.Writer
	prefix string

	mu     sync.Mutex
	within bool // a line
}

func (p *prefixer) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range bytes.SplitAfter(text, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if !p.within {
			io.WriteString(p.to, p.prefix)
		}
		p.within = !bytes.HasSuffix(line, []byte("\n"))
		if _, err := p.to.Write(line); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}
