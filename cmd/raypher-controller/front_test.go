package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/raypher/raypher/controller/controllertest"
	"github.com/raypher/raypher/controller/peer"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

func newFleet(t *testing.T) *controllertest.Fleet {
	t.Helper()
	return controllertest.New(t, filepath.Join(t.TempDir(), "controller.db"))
}

// Whoever is nobody gets nothing: each call of each service refuses a stranger's key, an enclave that was not attested, and one that shows more than it
// should. Calls that enclaves make before they are attested are refused to strangers without an enclave's form.
func TestStrangersAreRefused(t *testing.T) {
	f := newFleet(t)
	r := f.Start(t, program(t))
	key, _, err := peer.OpenKey(filepath.Join(t.TempDir(), "stranger"), true)
	if err != nil {
		t.Fatal(err)
	}
	certificate, _, err := peer.Certificate(key, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	stranger, enclave := f.Connect(t, r.RPC, certificate), f.Connect(t, r.RPC, newEnclave(t, "nowhere").Certificate)
	before := map[string]codes.Code{ // what an enclave may ask before it is attested
		"/raypher.controller.v1.Attestation/Challenge": codes.OK,
	}
	services := controllerv1.File_controller_v1_controller_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			name := "/" + string(services.Get(i).FullName()) + "/" + string(m.Name())
			if err := call(stranger, name, m); refusal(err) != codes.PermissionDenied {
				t.Errorf("%s by a stranger: %v", name, err)
			}
			want := codes.PermissionDenied
			if code, ok := before[name]; ok {
				want = code
			}
			if err := call(enclave, name, m); refusal(err) != want {
				t.Errorf("%s by an enclave that nobody knows: %v", name, err)
			}
		}
	}
	three := newEnclave(t, "nowhere").Certificate
	three.Certificate = append(three.Certificate, three.Certificate[1])
	if _, err := controllerv1.NewAttestationClient(f.Connect(t, r.RPC, three)).Challenge(short(t), &controllerv1.ChallengeRequest{}, grpc.WaitForReady(false)); err == nil {
		t.Error("three certificates are taken")
	}
	forged := newEnclave(t, "nowhere").Certificate
	forged.Certificate[1] = newEnclave(t, "other").Certificate.Certificate[1]
	if _, err := controllerv1.NewAttestationClient(f.Connect(t, r.RPC, forged)).Challenge(short(t), &controllerv1.ChallengeRequest{}, grpc.WaitForReady(false)); err == nil {
		t.Error("a signing key that has not signed the TLS key is taken")
	}
	if _, err := controllerv1.NewAttestationClient(f.Connect(t, r.RPC, tls.Certificate{})).Challenge(short(t), &controllerv1.ChallengeRequest{}, grpc.WaitForReady(false)); err == nil {
		t.Error("no certificate is taken")
	}
}

// refusal is the code of an error, where a malformed request of a service that looks at it first counts as refused.
func refusal(err error) codes.Code {
	if code := status.Code(err); code != codes.InvalidArgument {
		return code
	}
	return codes.PermissionDenied
}

func call(conn grpc.ClientConnInterface, name string, m protoreflect.MethodDescriptor) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return conn.Invoke(ctx, name, dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output()))
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// HTTP: what everybody may read, and the same authentication for everything else.
func TestHTTP(t *testing.T) {
	f := newFleet(t)
	r := f.Start(t, program(t))
	operatorCertificate, _, err := peer.Certificate(f.Operator, "operator")
	if err != nil {
		t.Fatal(err)
	}
	client := func(c tls.Certificate) *http.Client {
		config := startconf.PinnedTLS(c, f.Key)
		return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	}
	nobody, operator := client(tls.Certificate{}), client(operatorCertificate)
	e := newEnclave(t, "web-1")
	body := `{"name":"web-1","tier":"software","caller_key":"` + e.Caller.String() + `"}`
	for _, c := range []struct {
		name, method, path, kind, body string
		as                             *http.Client
		code                           int
		has                            string
	}{
		{"keys of results", "GET", "/.well-known/jwks.json", "", "", nobody, 200, `"kty":"EC"`},
		{"health", "GET", "/healthz", "", "", nobody, 200, `ok`},
		{"OpenAPI", "GET", "/openapi.json", "", "", nobody, 200, `/v1/hosts/{name}`},
		{"hosts by nobody", "GET", "/v1/hosts", "", "", nobody, 401, `"code":16`},
		{"hosts by an enclave", "GET", "/v1/hosts", "", "", client(e.Certificate), 403, "not the key of an operator"},
		{"add by nobody", "POST", "/v1/hosts", "application/json", body, nobody, 401, "certificate"},
		{"add as a form", "POST", "/v1/hosts", "application/x-www-form-urlencoded", body, operator, 415, "application/json"},
		{"add", "POST", "/v1/hosts", "application/json", body, operator, 200, `"name":"web-1"`},
		{"add with an unknown field", "POST", "/v1/hosts", "application/json", `{"nam":"x"}`, operator, 400, "unknown field"},
		{"add with broken JSON", "POST", "/v1/hosts", "application/json", `{`, operator, 400, ""},
		{"hosts", "GET", "/v1/hosts", "", "", operator, 200, `"verdict":"none"`},
		{"audit", "GET", "/v1/audit?limit=1", "", "", operator, 200, `host.add`},
		{"remove", "DELETE", "/v1/hosts/web-1", "", "", operator, 200, `{}`},
		{"remove again", "DELETE", "/v1/hosts/web-1", "", "", operator, 404, `there is no host`},
		{"a challenge", "POST", "/v1/attestation/challenge", "application/json", `{}`, client(e.Certificate), 200, `"nonce":`},
		{"too much", "POST", "/v1/measurements", "application/json", `{"list":"` + strings.Repeat("A", 8<<20) + `"}`, operator, 413, "more than 4194304 bytes"},
		{"nothing there", "GET", "/v1/nothing", "", "", operator, 404, ""},
		{"nothing public there", "GET", "/debug/pprof/", "", "", nobody, 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := http.NewRequest(c.method, "https://"+r.HTTP+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.kind != "" {
				request.Header.Set("Content-Type", c.kind)
			}
			reply, err := c.as.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer reply.Body.Close()
			text, err := io.ReadAll(reply.Body)
			if err != nil || reply.StatusCode != c.code || !strings.Contains(strings.ReplaceAll(string(text), `": "`, `":"`), c.has) {
				t.Errorf("%s %.500s %v", reply.Status, text, err)
			}
			if c.code == 200 && !json.Valid(text) {
				t.Errorf("not JSON: %s", text)
			}
		})
	}
	// A forwarded identity is no identity: only the handshake counts.
	request, err := http.NewRequest("GET", "https://"+r.HTTP+"/v1/hosts", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "Grpc-Metadata-Key", "Authorization"} {
		request.Header.Set(header, base64.StdEncoding.EncodeToString(operatorCertificate.Certificate[0]))
	}
	reply, err := nobody.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusUnauthorized {
		t.Error(reply.Status)
	}
}

// SIGTERM ends it without an error, and what was kept is there at the next start, with the same keys.
func TestStop(t *testing.T) {
	f := newFleet(t)
	self := program(t)
	r := f.Start(t, self)
	e := newEnclave(t, "keep")
	add(t, f.AsOperator(t, r), e)
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	again := f.Start(t, self)
	hosts, err := controllerv1.NewFleetClient(f.AsOperator(t, again)).Hosts(short(t), &controllerv1.HostsRequest{})
	if err != nil || len(hosts.GetHosts()) != 1 {
		t.Errorf("%v, %v", hosts, err)
	}
}

// What is wrong at the start is said with the flag and the next step.
func TestStartRefuses(t *testing.T) {
	self := program(t)
	f := newFleet(t)
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"an operator that is none", []string{"--operator", "sha256:zz"}, "--operator"},
		{"a golden key that is missing", []string{"--golden-key", "/nonexistent"}, "--golden-key"},
		{"a root that is none", []string{"--nitro-root", f.OperatorFile}, "--nitro-root"},
		{"a lifetime of years", []string{"--result-lifetime", "100000h"}, "lifetime"},
		{"keys that replicas must share are missing", []string{"--database-url", "postgres://nobody@127.0.0.1:1/x"}, "does not answer"},
		{"a key that others can read", []string{"--tls-key", "/etc/passwd"}, "--tls-key"},
		{"a database of an unknown kind", []string{"--database-url", "mysql://x"}, "postgres://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r, err := f.Run(self, c.args...); err == nil {
				r.Kill()
				t.Error("it started")
			} else if !strings.Contains(err.Error(), c.want) {
				t.Error(err)
			}
		})
	}
}
