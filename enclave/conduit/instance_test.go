package conduit

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// A document comes on the Dial stream, for the nonce that was asked about; what a parent may answer instead is an error.
func TestInstanceDocument(t *testing.T) {
	d, p := serve(t)
	p.attach()
	nonce := bytes.Repeat([]byte{7}, 32)
	for _, c := range []struct {
		name   string
		answer *enclavev1.DialResult
		want   string // empty: the document
	}{
		{"a document", &enclavev1.DialResult{NitroTpmDocument: []byte("document")}, ""},
		{"the largest", &enclavev1.DialResult{NitroTpmDocument: make([]byte, MaxDocument)}, ""},
		{"a larger one", &enclavev1.DialResult{NitroTpmDocument: make([]byte, MaxDocument+1)}, "too large"},
		{"none", &enclavev1.DialResult{Error: "this host shows no NitroTPM"}, "shows no NitroTPM"},
		{"nothing, as a parent of an earlier release", &enclavev1.DialResult{}, "did not connect"},
		{"both", &enclavev1.DialResult{Error: "lie", NitroTpmDocument: []byte("document")}, "lie"},
	} {
		type outcome struct {
			document []byte
			err      error
		}
		got := make(chan outcome, 1)
		go func() {
			document, err := d.InstanceDocument(p.ctx, nonce)
			got <- outcome{document, err}
		}()
		r := p.asked()
		if r.GetHost() != "" || r.GetPort() != 0 || !bytes.Equal(r.GetNitroTpmNonce(), nonce) {
			t.Errorf("asked for %v", r)
		}
		c.answer.Number = r.GetNumber()
		if err := p.stream.Send(c.answer); err != nil {
			t.Fatal(err)
		}
		switch o := <-got; {
		case c.want == "" && (o.err != nil || !bytes.Equal(o.document, c.answer.GetNitroTpmDocument())):
			t.Errorf("%s: %d bytes, %v", c.name, len(o.document), o.err)
		case c.want != "" && (o.err == nil || !strings.Contains(o.err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, o.err, c.want)
		}
	}
}

// A document is no connection, and a connection no document.
func TestDocumentsAndConnectionsAreToldApart(t *testing.T) {
	d, p := serve(t)
	p.attach()
	waiting := start(p.ctx, d)
	if err := p.stream.Send(&enclavev1.DialResult{Number: p.asked().GetNumber(), NitroTpmDocument: []byte("document")}); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting; !errors.Is(got.err, ErrRefused) {
		t.Errorf("a document for a connection: %v", got.err)
	}
	ended := make(chan error, 1)
	go func() { _, err := d.InstanceDocument(p.ctx, []byte("nonce")); ended <- err }()
	r := p.asked()
	if _, err := p.connect(r.GetNumber()).Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a connection for a document: %v", err)
	}
	if err := p.stream.Send(&enclavev1.DialResult{Number: r.GetNumber(), NitroTpmDocument: []byte("document")}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
