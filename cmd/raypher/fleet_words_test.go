package main

import "testing"

func TestPlainly(t *testing.T) {
	const refused = `connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`
	for _, c := range []struct{ name, text, want string }{
		{"words of ours", "nonce: it was used", "nonce: it was used"},
		{"nothing", "", ""},
		{"a connection", refused, "dial tcp 127.0.0.1:1: connect: connection refused"},
		{"the same twice, as raypherd tells it", "rpc error: code = Unavailable desc = " + refused + "\nrpc error: code = Unavailable desc = " + refused,
			"dial tcp 127.0.0.1:1: connect: connection refused"},
		{"two, as an enclave tells them", "fetch ceiling: Unavailable: " + refused + "; fetch secrets: Unavailable: " + refused,
			"fetch ceiling: dial tcp 127.0.0.1:1: connect: connection refused; fetch secrets: dial tcp 127.0.0.1:1: connect: connection refused"},
		{"another key", `connection error: desc = "transport: authentication handshake failed: not the controller"`, "not the controller"},
		{"quotation marks within", `connection error: desc = "transport: Error while dialing: the parent did not connect: \"refused\""`, `the parent did not connect: "refused"`},
		{"cut off", `x: connection error: desc = "transport: Err ... (cut)`, `x: connection error: desc = "transport: Err ... (cut)`},
	} {
		if got := plainly(c.text); got != c.want {
			t.Errorf("%s: %q, expected %q", c.name, got, c.want)
		}
	}
}
