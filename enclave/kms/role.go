package kms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const (
	// metadataHost is where EC2's instance metadata service answers, on port 80 and in clear text, to the instance and so to the parent ("Use the
	// Instance Metadata Service to access instance metadata" of the EC2 User Guide).
	metadataHost  = "169.254.169.254"
	metadataToken = "/latest/api/token"
	metadataRole  = "/latest/meta-data/iam/security-credentials/"
	// spare is how long credentials have to last to be used again. EC2 has new ones at least five minutes before the old ones end.
	spare = 5 * time.Minute
)

// roleName is that of IAM (API_CreateRole, RoleName); maxToken is generous, tokens have 56 bytes.
var roleName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[\w+=,.@-]{1,64}$`) })

const maxToken = 256

// role gets the temporary credentials of the instance's role, with version 2 of the metadata service. Whatever the parent makes of them ends
// in a request that KMS does not answer.
type role struct {
	web *http.Client

	mu     sync.Mutex
	latest aws.Credentials
}

// credentials returns those that it has while they last, or new ones.
func (r *role) credentials(ctx context.Context) (aws.Credentials, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.latest.HasKeys() && time.Until(r.latest.Expires) > spare {
		return r.latest, nil
	}
	fresh, err := r.fetch(ctx)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("credentials of the instance's role: %w", err)
	}
	r.latest = fresh
	return fresh, nil
}

// forget makes the next call get new credentials.
func (r *role) forget() {
	r.mu.Lock()
	r.latest = aws.Credentials{}
	r.mu.Unlock()
}

func (r *role) fetch(ctx context.Context) (aws.Credentials, error) {
	token, err := r.ask(ctx, http.MethodPut, metadataToken, "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if err != nil {
		return aws.Credentials{}, err
	}
	if len(token) == 0 || len(token) > maxToken {
		return aws.Credentials{}, fmt.Errorf("a token of %d bytes", len(token))
	}
	const with = "X-Aws-Ec2-Metadata-Token"
	name, err := r.ask(ctx, http.MethodGet, metadataRole, with, string(token))
	if err != nil {
		return aws.Credentials{}, err
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(name)), "\n")
	if !roleName().MatchString(first) {
		return aws.Credentials{}, fmt.Errorf("%.80q is no role: give the instance one (IAM instance profile)", first)
	}
	answer, err := r.ask(ctx, http.MethodGet, metadataRole+first, with, string(token))
	if err != nil {
		return aws.Credentials{}, err
	}
	var said struct {
		Code, AccessKeyId, SecretAccessKey, Token string
		Expiration                                time.Time
	}
	if err := json.Unmarshal(answer, &said); err != nil {
		return aws.Credentials{}, fmt.Errorf("the answer for role %s: %w", first, err)
	}
	if said.Code != "Success" || said.AccessKeyId == "" || said.SecretAccessKey == "" || said.Token == "" {
		return aws.Credentials{}, fmt.Errorf("the metadata service has none for role %s, it says %.60q", first, said.Code)
	}
	return aws.Credentials{
		AccessKeyID: said.AccessKeyId, SecretAccessKey: said.SecretAccessKey, SessionToken: said.Token, CanExpire: true, Expires: said.Expiration,
	}, nil
}

// ask is one request to the metadata service, with one header.
func (r *role) ask(ctx context.Context, method, path, header, value string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+metadataHost+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(header, value)
	status, body, err := fetch(r.web, request)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reach the metadata service: %w", err)
	case status == http.StatusNotFound && method == http.MethodGet:
		return nil, errors.New("the instance has no role: give it one (IAM instance profile)")
	case status != http.StatusOK:
		return nil, fmt.Errorf("the metadata service answered %d to %s: is it switched on, with version 2?", status, path)
	}
	return body, nil
}
