package grpcfields_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/internal/grpcfields"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

func TestCodec(t *testing.T) {
	const most = 100
	codec := grpcfields.Codec(most)
	if codec.Name() != "proto" {
		t.Error(codec.Name())
	}
	with := func(elements int, name string) []byte {
		m := &controllerv1.ReportRequest{Version: "v"}
		for range elements {
			m.Policies = append(m.Policies, &controllerv1.PolicyVersion{Name: name})
		}
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, ""},
		{"as many as may be", with(most-1, ""), ""},
		{"as many as may be, large ones", with(most-1, strings.Repeat("a", 100)), ""},
		{"one more", with(most, "a"), "more than 100 fields"},
		{"many", with(1_000_000, ""), "more than 100 fields"},
		{"a long one that ends within", with(most-1, strings.Repeat("a", 100))[:1000], "cannot parse"},
	} {
		half := len(c.data) / 2
		data := mem.BufferSlice{mem.SliceBuffer(c.data[:half]), mem.SliceBuffer(c.data[half:])}
		var got controllerv1.ReportRequest
		err := codec.Unmarshal(data, &got)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if again, _ := proto.Marshal(&got); c.want == "" && len(again) != len(c.data) {
			t.Errorf("%s: %d bytes of %d", c.name, len(again), len(c.data))
		}
	}
}
