package metered

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Nginx runs nginx as a plain reverse proxy from HTTP to the TLS of a provider, as people put it before an API: the provider is at the
// address upstream, has a certificate for name that the authority root (PEM) vouches for, and wants key.
func Nginx(b testing.TB, upstream, name, key string, root []byte) (url string) {
	b.Helper()
	program := os.Getenv("RAYPHER_NGINX")
	if program == "" {
		b.Skip("there is no nginx to compare with: set RAYPHER_NGINX to what scripts/nginx.sh prints")
	}
	folder := b.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // nginx takes the port
	configuration := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream provider { server %[3]s; keepalive 64; }
	server {
		listen %[2]s;
		location / {
			proxy_pass https://provider;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Authorization "Bearer %[4]s";
			proxy_buffering off;
			proxy_ssl_server_name on; proxy_ssl_name %[5]s;
			proxy_ssl_verify on; proxy_ssl_trusted_certificate %[1]s/root.pem; proxy_ssl_session_reuse on;
		}
	}
}`, folder, address, upstream, key, name)
	for name, text := range map[string]string{"nginx.conf": configuration, "root.pem": string(root)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-p", folder, "-c", filepath.Join(folder, "nginx.conf"))
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return "http://" + address
		}
		if time.Now().After(end) {
			b.Fatalf("nginx does not listen: %s", said.Bytes())
		}
	}
}
