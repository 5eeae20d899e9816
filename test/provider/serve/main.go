// Command serve runs a scripted provider of models with TLS, for trying the gateway by hand and for tests of programs: it writes the
// certificate of its authority to a file, says where it listens, and serves its account at /account.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/raypher/raypher/test/provider"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on")
	key := flag.String("key", "", "key that a caller must send (default: any)")
	names := flag.String("names", "provider.test,127.0.0.1", "names of its certificate, with commas between")
	root := flag.String("root", "", "file to write the certificate of its authority to")
	flag.Parse()
	if err := serve(*listen, *key, strings.Split(*names, ","), *root); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func serve(listen, key string, names []string, root string) error {
	p, err := provider.New(provider.Options{Key: key, Names: names})
	if err != nil {
		return err
	}
	if root != "" {
		if err := os.WriteFile(root, p.RootPEM(), 0o644); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("https://%s\n", listener.Addr())
	return p.Serve(listener)
}
