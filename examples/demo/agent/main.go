// Command agent is the demonstration's agent: it gives its argument to the model at OPENAI_BASE_URL as a task, and executes
// whatever tool calls come back.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/raypher/raypher/examples/agentloop"
)

func main() {
	agent := agentloop.Agent{
		BaseURL: strings.TrimSuffix(os.Getenv("OPENAI_BASE_URL"), "/"),
		Key:     os.Getenv("OPENAI_API_KEY"),
		Model:   "scripted",
		Log:     os.Stderr,
	}
	answer, err := agent.Do(context.Background(), strings.Join(os.Args[1:], " "))
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	fmt.Println(answer)
}
