package isolate

import (
	"errors"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sockets are those of the DNS forwarder inside an agent's network namespace, on its loopback: whoever asks there is the agent.
type Sockets struct {
	Datagrams []net.PacketConn
	Streams   []net.Listener
}

// Close closes them. Until then they keep the namespace.
func (s *Sockets) Close() error {
	var all []error
	for _, d := range s.Datagrams {
		all = append(all, d.Close())
	}
	for _, l := range s.Streams {
		all = append(all, l.Close())
	}
	return errors.Join(all...)
}

// Listen opens the sockets in ns, whose loopback is up.
func Listen(ns *os.File, port uint16) (*Sockets, error) {
	s := &Sockets{}
	err := inside(ns, func() error {
		for _, host := range []string{"127.0.0.1", "::1"} {
			at := net.JoinHostPort(host, strconv.Itoa(int(port)))
			d, err := net.ListenPacket("udp", at)
			if host == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
				return nil
			}
			if err != nil {
				return err
			}
			s.Datagrams = append(s.Datagrams, d)
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			s.Streams = append(s.Streams, l)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}
