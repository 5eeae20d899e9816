package kmstest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The role's credentials: the example of AWS's documentation.
const (
	accessKey    = "AKIDEXAMPLE"
	secretKey    = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	sessionToken = "session token"
	metadataPass = "token of the metadata service"
)

// serveMetadata answers as version 2 of the instance metadata service does.
func (s *Server) serveMetadata(w http.ResponseWriter, r *http.Request) {
	const path = "/latest/meta-data/iam/security-credentials/"
	switch {
	case r.Host != "169.254.169.254":
		http.Error(w, "another host", http.StatusBadRequest)
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
		fmt.Fprint(w, metadataPass)
	case r.Header.Get("X-aws-ec2-metadata-token") != metadataPass:
		http.Error(w, "no token", http.StatusUnauthorized)
	case r.Method == http.MethodGet && r.URL.Path == path:
		fmt.Fprint(w, role)
	case r.Method == http.MethodGet && r.URL.Path == path+role:
		s.mu.Lock()
		s.credentials++
		s.mu.Unlock()
		fmt.Fprintf(w, `{"Code": "Success", "LastUpdated": "2026-01-02T03:04:05Z", "Type": "AWS-HMAC", "AccessKeyId": %q, "SecretAccessKey": %q, "Token": %q, "Expiration": %q}`,
			accessKey, secretKey, sessionToken, time.Now().Add(6*time.Hour).UTC().Format(time.RFC3339))
	default:
		http.NotFound(w, r)
	}
}

// VerifySignature verifies a request's Signature Version 4 ("Create a signed AWS API request" of the IAM User Guide) for requests without a
// query. Every header named x-amz-*, the host and the content's type have to be signed.
func VerifySignature(r *http.Request, body []byte, secret string, now time.Time) error {
	fields, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential="+accessKey+"/")
	parts := strings.Split(fields, ", ")
	if !ok || len(parts) != 3 {
		return errors.New("no Authorization of three parts")
	}
	scope := strings.Split(parts[0], "/")
	names, signedOK := strings.CutPrefix(parts[1], "SignedHeaders=")
	signature, signatureOK := strings.CutPrefix(parts[2], "Signature=")
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", stamp)
	if !signedOK || !signatureOK || err != nil || len(scope) != 4 || scope[0] != at.Format("20060102") || scope[3] != "aws4_request" {
		return errors.New("a scope or time that do not fit")
	}
	if age := now.Sub(at); age > 5*time.Minute || age < -5*time.Minute {
		return fmt.Errorf("signature expired: %s old", age)
	}
	signed := strings.Split(names, ";")
	canonical := r.Method + "\n" + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n"
	for _, name := range signed {
		values := r.Header.Values(name)
		switch name {
		case "host":
			values = []string{r.Host}
		case "content-length":
			values = []string{fmt.Sprint(r.ContentLength)}
		}
		canonical += name + ":" + strings.TrimSpace(strings.Join(values, ",")) + "\n"
	}
	for name := range r.Header {
		if name = strings.ToLower(name); (strings.HasPrefix(name, "x-amz-") || name == "content-type") && !slices.Contains(signed, name) {
			return fmt.Errorf("%s is not signed", name)
		}
	}
	if !slices.IsSorted(signed) || !slices.Contains(signed, "host") {
		return errors.New("the host is not signed, or the names are not sorted")
	}
	hash := sha256.Sum256(body)
	canonical += "\n" + names + "\n" + hex.EncodeToString(hash[:])
	digest := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + secret)
	for _, part := range scope {
		key = mac(key, part)
	}
	want := mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", stamp, strings.Join(scope, "/"), hex.EncodeToString(digest[:])}, "\n"))
	if got, err := hex.DecodeString(signature); err != nil || !bytes.Equal(got, want) {
		return errors.New("another signature than the request's")
	}
	return nil
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
