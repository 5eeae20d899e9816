// Package client lets a program that runs under the guard ask raypherd what it is and may do, and for a visa on a narrower
// intent.
//
// There is nothing to authenticate with: raypherd knows the caller by what the kernel says of the connection. A program that
// is not governed is refused.
package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// SocketVariable is set by `raypher run` for every agent. DefaultAddress is where raypherd listens for agents on loopback.
const (
	SocketVariable = "RAYPHER_AGENT_SOCKET"
	DefaultAddress = "127.0.0.1:50051"
)

// Errors that callers tell apart. Each is wrapped in raypherd's words.
var (
	ErrNotGoverned = errors.New("raypherd does not know this process as an agent")
	ErrBeyond      = errors.New("beyond what this run was granted, or malformed")
	ErrUnavailable = errors.New("raypherd or its enclave does not answer")
)

// Client is a connection to raypherd. Its methods may be called from several goroutines.
type Client struct {
	conn  *grpc.ClientConn
	agent parentv1.AgentClient
}

// FromEnvironment connects to the socket that RAYPHER_AGENT_SOCKET names, else to DefaultAddress. It does not wait for an
// answer. Close the client in the end.
func FromEnvironment() (*Client, error) {
	target := DefaultAddress
	if socket := os.Getenv(SocketVariable); socket != "" {
		if !filepath.IsAbs(socket) {
			return nil, fmt.Errorf("%s=%q: must be an absolute path", SocketVariable, socket)
		}
		target = "unix:" + socket
	}
	return Dial(target)
}

// Dial connects to a gRPC target, such as "unix:/run/raypher/agent.sock".
func Dial(target string) (*Client, error) {
	// The authority is fixed, because a socket's path is none (RFC 3986 section 3.2).
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("raypherd"))
	if err != nil {
		return nil, fmt.Errorf("connecting to raypherd at %s: %w", target, err)
	}
	return &Client{conn, parentv1.NewAgentClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Identity is what raypherd holds the caller to be.
type Identity struct {
	AgentID string
	Subject string    // SPIFFE ID
	Tier    string    // of the enclave that granted the visa: software | tpm | nitro
	Permit  []byte    // canonical JSON of the policy language: what the guard lets through now
	Expires time.Time // of the visa, to the second
}

// Whoami asks who the caller is.
func (c *Client) Whoami(ctx context.Context) (*Identity, error) {
	reply, err := c.agent.Whoami(ctx, &parentv1.WhoamiRequest{})
	if err != nil {
		return nil, explain("whoami", err)
	}
	return &Identity{
		AgentID: reply.AgentId, Subject: reply.Subject, Tier: reply.Tier,
		Permit: reply.Permit, Expires: time.Unix(reply.ExpiresUnix, 0),
	}, nil
}

// Request says what a visa is asked for. The zero value asks for one on the whole permit of the run.
type Request struct {
	Intent       []byte        // YAML or JSON of the policy language, within the permit of the run
	Audience     string        // for whom the visa is; empty: for everyone
	Nonce        []byte        // 8 to 64 bytes that the relying party gave; nil: none
	Lifetime     time.Duration // to the second, at most the enclave's; 0: the enclave's
	GuardFollows bool          // the guard holds the whole agent to this intent, until the next request with GuardFollows
}

// Visa is a visa and what it grants.
type Visa struct {
	Bytes   []byte // see package visa
	Permit  []byte // canonical JSON of the policy language
	Expires time.Time
}

// RequestVisa asks for a visa. What lies beyond the permit of the run is an error that names each item and is ErrBeyond.
func (c *Client) RequestVisa(ctx context.Context, r Request) (*Visa, error) {
	if r.Lifetime < 0 || r.Lifetime%time.Second != 0 || r.Lifetime > 24*time.Hour {
		return nil, fmt.Errorf("visa request: a lifetime of %v: give whole seconds, at most a day", r.Lifetime)
	}
	reply, err := c.agent.RequestVisa(ctx, &parentv1.RequestVisaRequest{
		Intent: r.Intent, Audience: r.Audience, Nonce: r.Nonce,
		TtlSeconds: uint32(r.Lifetime / time.Second), GuardFollows: r.GuardFollows,
	})
	if err != nil {
		return nil, explain("visa request", err)
	}
	return &Visa{Bytes: reply.Visa, Permit: reply.Permit, Expires: time.Unix(reply.ExpiresUnix, 0)}, nil
}

// explain gives an error of a call its meaning for an agent.
func explain(what string, err error) error {
	s := status.Convert(err)
	meaning := err
	switch s.Code() {
	case codes.Unauthenticated:
		meaning = ErrNotGoverned
	case codes.PermissionDenied, codes.InvalidArgument:
		meaning = ErrBeyond
	case codes.Unavailable:
		meaning = ErrUnavailable
	case codes.Canceled:
		meaning = context.Canceled
	case codes.DeadlineExceeded:
		meaning = context.DeadlineExceeded
	default:
		return fmt.Errorf("%s: %s", what, s.Message())
	}
	return fmt.Errorf("%s: %w: %s", what, meaning, s.Message())
}
