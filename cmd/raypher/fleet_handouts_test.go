package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/distribution"
	"github.com/raypher/raypher/controller/secret"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// hostsOnly is a Fleet service of which these commands need one call.
type hostsOnly struct {
	controllerv1.UnimplementedFleetServer
	hosts []*controllerv1.Host
}

// Hosts gives them one by one, as a fleet of many comes in pages.
func (h *hostsOnly) Hosts(_ context.Context, r *controllerv1.HostsRequest) (*controllerv1.HostsReply, error) {
	for i, host := range h.hosts {
		if host.GetName() <= r.GetAfter() {
			continue
		}
		reply := &controllerv1.HostsReply{Hosts: h.hosts[i : i+1]}
		if i+1 < len(h.hosts) {
			reply.Next = host.GetName()
		}
		return reply, nil
	}
	return &controllerv1.HostsReply{}, nil
}

// operatorOf serves a controller's secrets and releases on a fresh database, to an operator.
func operatorOf(t *testing.T, hosts ...*controllerv1.Host) (with withController, db *store.DB) {
	t.Helper()
	dir := t.TempDir()
	db = storetest.Open(t, filepath.Join(dir, "c.db"))
	if _, err := secret.MakeKey(filepath.Join(dir, "k")); err != nil {
		t.Fatal(err)
	}
	vault, err := secret.OpenVault(filepath.Join(dir, "k"))
	if err != nil {
		t.Fatal(err)
	}
	fleet := &callertest.Fleet{}
	secrets, err := secret.New(t.Context(), secret.Options{DB: db, Vault: vault, Callers: fleet})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(callertest.Operator(ctx), request)
	}))
	controllerv1.RegisterSecretsServer(server, secrets)
	controllerv1.RegisterDistributionServer(server, distribution.New(distribution.Options{DB: db, Callers: fleet}))
	controllerv1.RegisterFleetServer(server, &hostsOnly{hosts: hosts})
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-served })
	return func(_ *cobra.Command, call func(grpc.ClientConnInterface) error) error { return call(conn) }, db
}

// TestFleetSecret: an operator's secrets, from a file and from standard input; no output and no argument has a value.
func TestFleetSecret(t *testing.T) {
	with, _ := operatorOf(t)
	const value = "sk-the-value"
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	secrets := func(stdin string, args ...string) string {
		t.Helper()
		c := fleetSecretCommand(with)
		c.SetIn(strings.NewReader(stdin))
		out := mustCall(t, c, args...)
		all.WriteString(out)
		return out
	}
	if out := secrets("", "list"); !strings.Contains(out, "no secrets") {
		t.Error(out)
	}
	if out := secrets("", "put", "llm/key", "--hosts", "build-*", "--hosts", "ci", "--file", file); out != "llm/key version 1, 12 bytes, for build-* ci of tier nitro, tpm\n" {
		t.Error(out)
	}
	if out := secrets(value+"2\r\n", "rotate", "llm/key", "--for", "24h"); out != "llm/key version 2, 13 bytes, for build-* ci of tier nitro, tpm\n" {
		t.Error(out)
	}
	if out := secrets(value+"\n", "put", "exact", "--exact", "--tiers", "software,tpm", "--hosts", "*"); out != "exact version 1, 13 bytes, for * of tier software, tpm\n" {
		t.Error(out)
	}
	if out := secrets("", "list"); !strings.Contains(out, "llm/key  2        build-* ci") || !strings.Contains(out, "nobody yet") {
		t.Error(out)
	}
	var listed []secretJSON
	if err := json.Unmarshal([]byte(secrets("", "list", "--json")), &listed); err != nil || len(listed) != 2 || listed[1].Ends == nil || listed[0].Held == nil || !listed[1].Ends.After(time.Now()) {
		t.Errorf("%+v, %v", listed, err)
	}
	secrets("", "delete", "exact")
	if strings.Contains(all.String(), value) {
		t.Errorf("the value is in:\n%s", all.String())
	}
	for name, c := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"no hosts":              {value, []string{"put", "other"}, "hosts"},
		"nothing to put":        {"\n", []string{"put", "other", "--hosts", "*"}, "it is empty"},
		"too much":              {strings.Repeat("x", 1<<17), []string{"put", "other", "--hosts", "*"}, "more than"},
		"rotate of none":        {value, []string{"rotate", "none"}, "none is new: say for which hosts"},
		"delete of none":        {"", []string{"delete", "none"}, "fleet secret list"},
		"no file":               {"", []string{"put", "other", "--hosts", "*", "--file", file + "x"}, "no such file"},
		"a value as argument":   {"", []string{"put", "other", value, "--hosts", "*"}, "arg"},
		"over before it begins": {value, []string{"put", "other", "--hosts", "*", "--for", "-1h"}, "--for"},
	} {
		command := fleetSecretCommand(with)
		command.SetIn(strings.NewReader(c.stdin))
		if out, err := call(t, command, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
}

func TestHeldBy(t *testing.T) {
	s := &secretJSON{Version: 3, Held: map[string]uint64{"b": 3, "a": 2}}
	if got := s.heldBy(); got != "a (version 2), b" {
		t.Error(got)
	}
	for _, host := range []string{"c", "d", "e", "f"} {
		s.Held[host] = 3
	}
	if got := s.heldBy(); !strings.HasSuffix(got, ", e, and 1 more") {
		t.Error(got)
	}
}

// TestFleetRelease: ceilings and policies are released, a canary is raised, and the list says which hosts have what.
func TestFleetRelease(t *testing.T) {
	with, _ := operatorOf(t,
		&controllerv1.Host{Name: "build-1", CeilingVersion: 1, Policies: []*controllerv1.PolicyVersion{{Name: "coder", Version: 2}, {Name: "coder", Version: 1}}},
		&controllerv1.Host{Name: "web-1", CeilingVersion: 1, Policies: []*controllerv1.PolicyVersion{{Name: "coder", Version: 1}}})
	dir := t.TempDir()
	key := filepath.Join(dir, "op")
	mustCall(t, ceilingCommand(), "keygen", key)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bundle := filepath.Join(dir, "c.ceiling")
	mustCall(t, ceilingCommand(), "sign", "--key", key, write("c.yaml", "version: 1\ntrust_domain: d\ngrants: [{namespace: dev, agents: [x], permit: {}}]\n"))
	source := write("p.yaml", "namespace: dev\n")
	policies := map[string]string{}
	for _, version := range []string{"1", "2"} {
		policies[version] = filepath.Join(dir, version+".release")
		mustCall(t, policyCommand(), "release", "--key", key, "--name", "coder", "--version", version, "-o", policies[version], source)
	}
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"list"}, "nothing was released: raypher fleet release ceiling or policy does it\n"},
		{[]string{"ceiling", "--hosts", "build-*", bundle}, "ceiling version 1, on build-*\n"},
		{[]string{"policy", "--hosts", "*", policies["1"]}, "policy coder version 1, for all agents on *\n"},
		{[]string{"policy", "--hosts", "*", "--canary", "10", policies["2"]}, "policy coder version 2, for 10 % of agents on *\n"},
		{[]string{"canary", "coder", "50%"}, "policy coder version 2, for 50 % of agents on *\n"},
	} {
		if out := mustCall(t, fleetReleaseCommand(with), step.args...); out != step.want {
			t.Errorf("%q: %s", step.args, out)
		}
	}
	var listed []releaseJSON
	if err := json.Unmarshal([]byte(mustCall(t, fleetReleaseCommand(with), "list", "--json")), &listed); err != nil || len(listed) != 3 {
		t.Fatal(listed, err)
	}
	for i, want := range []string{"build-1", "build-1", "build-1 web-1"} {
		if got := strings.Join(listed[i].On, " "); got != want {
			t.Errorf("%s %s version %d is on %q, want %q", listed[i].Kind, listed[i].Name, listed[i].Version, got, want)
		}
	}
	if out := mustCall(t, fleetReleaseCommand(with), "list"); !strings.Contains(out, "policy   coder  2        *        50 %") || !strings.Contains(out, "1 host\n") || !strings.Contains(out, "2 hosts") {
		t.Error(out)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a ceiling as policy":  {[]string{"policy", "--hosts", "*", bundle}, "make one with `raypher policy release`"},
		"a policy as ceiling":  {[]string{"ceiling", "--hosts", "*", policies["1"]}, "ceiling sign"},
		"the source":           {[]string{"policy", "--hosts", "*", source}, "make one with"},
		"no hosts":             {[]string{"policy", policies["1"]}, "hosts"},
		"an older version":     {[]string{"policy", "--hosts", "*", policies["1"]}, "version 2 was released before"},
		"a canary of nobody":   {[]string{"policy", "--hosts", "*", "--canary", "0", policies["2"]}, "use 1 to 100"},
		"percent that is none": {[]string{"canary", "coder", "many"}, "use 1 to 100"},
		"a policy that is not": {[]string{"canary", "none", "50"}, "fleet release list"},
	} {
		if out, err := call(t, fleetReleaseCommand(with), c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
}
