package agentloop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// patience is how long a network tool waits. A black hole looks like this to an agent.
const patience = 2 * time.Second

// maxOutput bounds what a tool reports, in bytes.
const maxOutput = 64 << 10

// Result is what the agent reports to the model, as JSON.
type Result struct {
	OK     bool   `json:"ok"`
	Output string `json:"output,omitempty"`
	Error  string `json:"error,omitempty"`
}

func (r Result) encode() string {
	text, err := json.Marshal(r)
	if err != nil {
		return `{"ok":false,"error":"the result cannot be encoded"}`
	}
	return string(text)
}

func (r Result) short() string {
	if r.OK {
		return fmt.Sprintf("ok %.60q", r.Output)
	}
	return "failed: " + r.Error
}

// arguments are those of all tools; each tool reads its own.
type arguments struct {
	Path    string   `json:"path"`
	Content string   `json:"content"`
	Command []string `json:"command"`
	URL     string   `json:"url"`
	Network string   `json:"network"` // tcp4, tcp6, udp4, udp6
	Address string   `json:"address"`
	Data    string   `json:"data"`
	Name    string   `json:"name"`
}

// tool is one thing that the agent can do.
type tool struct {
	name, description string
	parameters        []string // names; all are strings but command
	run               func(context.Context, *arguments) (string, error)
}

// tools is the agent's toolbox.
var tools = []tool{
	{"read_file", "Read a file.", []string{"path"}, readFile},
	{"write_file", "Write a file, replacing what it held.", []string{"path", "content"}, writeFile},
	{"run", "Run a program and return its output.", []string{"command"}, runProgram},
	{"http_get", "Fetch a URL.", []string{"url"}, httpGet},
	{"connect", "Open a connection and send data over it.", []string{"network", "address", "data"}, connect},
	{"send_datagram", "Send one UDP datagram without connecting.", []string{"network", "address", "data"}, sendDatagram},
	{"resolve", "Look a host name up.", []string{"name"}, resolve},
	{"save_visa", "Copy this agent's visa to a file.", []string{"path"}, saveVisa},
}

// declarations are the tools in the words of the chat completions API.
func declarations() []any {
	var list []any
	for _, t := range tools {
		properties := make(map[string]any)
		for _, name := range t.parameters {
			properties[name] = map[string]any{"type": "string"}
		}
		if _, ok := properties["command"]; ok {
			properties["command"] = map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
		}
		list = append(list, map[string]any{"type": "function", "function": map[string]any{
			"name": t.name, "description": t.description,
			"parameters": map[string]any{"type": "object", "properties": properties, "required": t.parameters},
		}})
	}
	return list
}

func execute(ctx context.Context, name string, raw []byte) Result {
	for _, t := range tools {
		if t.name != name {
			continue
		}
		var args arguments
		if err := json.Unmarshal(raw, &args); err != nil {
			return Result{Error: "malformed arguments: " + err.Error()}
		}
		output, err := t.run(ctx, &args)
		if err != nil {
			return Result{Output: output, Error: err.Error()}
		}
		return Result{OK: true, Output: output}
	}
	return Result{Error: "no such tool: " + name}
}

func readFile(_ context.Context, args *arguments) (string, error) {
	file, err := os.Open(args.Path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxOutput))
	return string(text), err
}

func writeFile(_ context.Context, args *arguments) (string, error) {
	return "", os.WriteFile(args.Path, []byte(args.Content), 0o644)
}

func runProgram(ctx context.Context, args *arguments) (string, error) {
	if len(args.Command) == 0 {
		return "", fmt.Errorf("empty command")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*patience)
	defer cancel()
	output, err := exec.CommandContext(ctx, args.Command[0], args.Command[1:]...).CombinedOutput()
	if len(output) > maxOutput {
		output = output[:maxOutput]
	}
	return string(output), err
}

func httpGet(ctx context.Context, args *arguments) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args.URL, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	return string(text), err
}

// connect sends data and waits for a line back, which the demonstration's hosts send.
func connect(ctx context.Context, args *arguments) (string, error) {
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.DialContext(ctx, args.Network, args.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return exchange(conn, args.Data)
}

func exchange(conn net.Conn, data string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, data+"\n"); err != nil {
		return "", err
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	return strings.TrimSpace(string(answer[:n])), err
}

func sendDatagram(_ context.Context, args *arguments) (string, error) {
	to, err := net.ResolveUDPAddr(args.Network, args.Address)
	if err != nil {
		return "", err
	}
	socket, err := net.ListenUDP(args.Network, nil)
	if err != nil {
		return "", err
	}
	defer socket.Close()
	if err := socket.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := socket.WriteToUDP([]byte(args.Data+"\n"), to); err != nil {
		return "", err
	}
	answer := make([]byte, 512)
	n, _, err := socket.ReadFromUDP(answer)
	return strings.TrimSpace(string(answer[:n])), err
}

func resolve(ctx context.Context, args *arguments) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, args.Name)
	return strings.Join(addresses, " "), err
}

// saveVisa copies what RAYPHER_VISA names, which only the agent itself can open.
func saveVisa(_ context.Context, args *arguments) (string, error) {
	visa, err := os.ReadFile(os.Getenv("RAYPHER_VISA"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(args.Path, visa, 0o644); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes", len(visa)), nil
}
