// Command model serves a script as an OpenAI-compatible model on loopback, for trying an agent of your own by hand.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/raypher/raypher/examples/scripted"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "loopback address to serve on")
	set := make(values)
	flag.Var(set, "set", "name=value for {{.name}} in the script; may be repeated")
	flag.Parse()
	if err := serve(*listen, flag.Arg(0), set); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

func serve(listen, path string, set values) error {
	if path == "" {
		return errors.New("no script: model [-listen ADDRESS] [-set name=value] SCRIPT.json")
	}
	script, err := scripted.Load(path, set)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("OPENAI_BASE_URL=http://%s/v1\n", listener.Addr())
	return http.Serve(listener, scripted.NewServer(script))
}

// values is the flag -set.
type values map[string]string

func (v values) String() string { return "" }

func (v values) Set(pair string) error {
	name, value, ok := strings.Cut(pair, "=")
	if !ok {
		return errors.New("want name=value")
	}
	v[name] = value
	return nil
}
