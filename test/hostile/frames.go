package hostile

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attack is one thing that a parent may do. An error is about the attacker's own side.
type attack struct {
	name string
	do   func(context.Context, *run) error
}

var attacks = []attack{
	{"noise instead of TLS", noiseBeforeTLS},
	{"handshakes that never end", slowHandshakes},
	{"noise within TLS", noiseWithinTLS},
	{"rapid reset", rapidReset},
	{"headers without an end", endlessHeaders},
	{"as many headers as there is room for", manyHeaders},
	{"pings and settings, never reading", pings},
	{"calls whose answers are never read", neverReading},
	{"messages that end in the middle", halfMessages},
	{"connections that close in the middle", closing},
	{"all streams of all connections", allStreams},
	{"large messages on all streams", largeMessages},
	{"large messages without a store's word", largeStalled},
	{"garbage in each message", garbageMessages},
	{"stores that contradict the journal", lyingAttach},
	{"acknowledgements that lie", lyingAcks},
	{"a store that stalls", stallingStore},
}

// waiting bounds what one connection of an attacker does, in which the enclave may let it wait.
const waiting = 5 * time.Second

// connections is how many of them an attacker opens at once: more than the enclave takes at all.
const connections = 24

// few says how many connections are opened where everything takes its time: still more than the enclave takes of one caller.
const few = 6

// each runs something on many connections at once. That the enclave closes them is its right.
func (r *run) each(n int, do func(net.Conn) error) error {
	var wait sync.WaitGroup
	failed := make(chan error, n)
	for range n {
		wait.Go(func() {
			conn, err := r.Dial()
			if err != nil {
				failed <- err
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(waiting)) // a connection without deadlines ends with the enclave's
			_ = do(conn)                                  // it was closed, or not
		})
	}
	wait.Wait()
	close(failed)
	var err error
	refused := 0
	for one := range failed {
		refused++
		err = one
	}
	if refused == n {
		return fmt.Errorf("no connection at all: %w", err)
	}
	return nil
}

func (r *run) many() int {
	if r.Slow {
		return few
	}
	return connections
}

// framed is an authenticated HTTP/2 connection, with its first settings sent.
func (r *run) framed(conn net.Conn, settings ...http2.Setting) (*http2.Framer, net.Conn, error) {
	c := tls.Client(conn, &tls.Config{Certificates: []tls.Certificate{r.Caller}, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := c.Handshake(); err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, nil, err
	}
	f := http2.NewFramer(c, c)
	return f, c, f.WriteSettings(settings...)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

func noiseBeforeTLS(_ context.Context, r *run) error {
	var err error
	for _, text := range [][]byte{
		noise(256 << 10), []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), []byte(http2.ClientPreface), {},
		append([]byte{22, 3, 1, 0xff, 0xff}, noise(64<<10)...),                // a TLS record that is too long
		append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}, noise(16<<10)...), // a ClientHello of noise
	} {
		err = errors.Join(err, r.each(r.many(), func(c net.Conn) error {
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, writeErr := c.Write(text)
			return errors.Join(writeErr, c.Close())
		}))
	}
	return err
}

func slowHandshakes(_ context.Context, r *run) error {
	return r.each(r.many(), func(c net.Conn) error {
		for _, b := range []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3} { // a ClientHello, byte by byte, and never more
			if _, err := c.Write([]byte{b}); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
		_, err := io.Copy(io.Discard, c) // until it is closed
		return err
	})
}

func noiseWithinTLS(_ context.Context, r *run) error {
	var err error
	settings := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}
	for _, frames := range [][]byte{
		noise(256 << 10),
		{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1},                                                      // a frame of 16 MiB
		{0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5},                                                // settings of an odd length
		append(settings, 0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),                       // headers that do not decode
		append(settings, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff),                       // the window overflows
		append(settings, bytes.Repeat([]byte{0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9}, 1000)...), // streams that depend on themselves
	} {
		err = errors.Join(err, r.each(r.many(), func(c net.Conn) error {
			_, secured, err := r.framed(c)
			if err != nil {
				return err
			}
			_ = secured.SetDeadline(time.Now().Add(time.Second))
			_, err = secured.Write(frames)
			_, readErr := io.Copy(io.Discard, io.LimitReader(secured, 1<<16))
			return errors.Join(err, readErr)
		}))
	}
	return err
}

// headers of a call.
func headers(method string, more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/raypher.enclave.v1.Enclave/" + method},
		{Name: ":authority", Value: "raypher-enclave"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		_ = e.WriteField(f) // into memory
	}
	return b.Bytes()
}

func rapidReset(_ context.Context, r *run) error {
	open := headers("Describe")
	return r.each(min(8, r.many()), func(c net.Conn) error {
		f, _, err := r.framed(c)
		for id := uint32(1); err == nil && id < 40_000; id += 2 {
			if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: open, EndHeaders: true}); err == nil {
				err = f.WriteRSTStream(id, http2.ErrCodeCancel)
			}
		}
		return err
	})
}

func endlessHeaders(_ context.Context, r *run) error {
	piece := headers("Describe", hpack.HeaderField{Name: "x-noise", Value: strings.Repeat("n", 8<<10)})
	return r.each(min(8, r.many()), func(c net.Conn) error {
		f, _, err := r.framed(c)
		if err == nil {
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: piece})
		}
		for n := 0; err == nil && n < 4000; n++ { // 32 MiB
			err = f.WriteContinuation(1, false, piece)
		}
		return err
	})
}

func manyHeaders(_ context.Context, r *run) error {
	// One name and value, and then its index in the table of both sides: a byte on the line is 4 KiB in memory.
	value := hpack.HeaderField{Name: "x-noise", Value: strings.Repeat("n", 3<<10)}
	repeated := make([]hpack.HeaderField, 4000)
	for i := range repeated {
		repeated[i] = value
	}
	block := headers("Describe", repeated...)
	return r.each(r.many(), func(c net.Conn) error {
		f, _, err := r.framed(c)
		for id := uint32(1); err == nil && id < 400; id += 2 {
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
		}
		return err
	})
}

func pings(_ context.Context, r *run) error {
	return r.each(min(8, r.many()), func(c net.Conn) error {
		f, _, err := r.framed(c)
		for n := 0; err == nil && n < 50_000; n++ {
			if err = f.WritePing(false, [8]byte{byte(n)}); err == nil {
				err = f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(n)})
			}
		}
		return err
	})
}

// frame is a message of gRPC in its frame.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// neverReading asks for a description on as many streams as a connection has, and more, and gives no room for the answers.
func neverReading(_ context.Context, r *run) error {
	open := headers("Describe")
	return r.each(r.many(), func(c net.Conn) error {
		f, _, err := r.framed(c, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for id := uint32(1); err == nil && id < 20_000; id += 2 {
			if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: open, EndHeaders: true}); err == nil {
				err = f.WriteData(id, true, frame(nil))
			}
		}
		return err
	})
}

func halfMessages(_ context.Context, r *run) error {
	half := frame(make([]byte, 1<<20))[:500<<10]
	return r.each(r.many(), func(c net.Conn) error {
		f, secured, err := r.framed(c)
		for id := uint32(1); err == nil && id < 512; id += 2 {
			if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers("Mint"), EndHeaders: true}); err != nil {
				break
			}
			for rest := half; err == nil && len(rest) > 0; { // more than the window has room for, which is against the rules
				n := min(len(rest), 16<<10)
				err = f.WriteData(id, false, rest[:n])
				rest = rest[n:]
			}
		}
		if err == nil {
			_, err = io.Copy(io.Discard, secured)
		}
		return err
	})
}

func closing(_ context.Context, r *run) error {
	message := frame(make([]byte, 100<<10))
	for n := range 8 {
		if err := r.each(r.many(), func(c net.Conn) error {
			f, secured, err := r.framed(c)
			if err != nil {
				return err
			}
			if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers([]string{"Mint", "Persist", "MintStream", "Record"}[n%4]), EndHeaders: true}); err == nil {
				err = f.WriteData(1, false, message[:n*2000])
			}
			if n%2 == 0 {
				_, _ = secured.Write([]byte{0, 0x40, 0, 0}) // the beginning of a frame
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// configureBadly sends to the port of the start configuration what is none.
func (r *run) configureBadly() error {
	for _, sent := range [][]byte{
		nil, {0}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0}, append([]byte{0, 1, 0, 0}, noise(64<<10)...), append([]byte{0, 0, 0, 9}, "ttl = x\n\n"...),
		append([]byte{0, 0, 0, 17}, "ttl_seconds = 60\n"...), noise(1 << 20),
	} {
		conn, err := r.Configure()
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(waiting)) // it answers or closes before
		_, _ = conn.Write(sent)                       // it may have closed
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		answer, _ := io.ReadAll(io.LimitReader(conn, 8<<10))
		conn.Close()
		if strings.HasPrefix(string(answer), "ok ") {
			return fmt.Errorf("%.20q was taken for a start configuration", sent)
		}
	}
	// One that says nothing holds the others up for some seconds, and no longer.
	silent, err := r.Configure()
	if err == nil {
		defer silent.Close()
	}
	return err
}
