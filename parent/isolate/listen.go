package isolate

import (
	"errors"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sockets are those of the DNS forwarder, or of the gateway for models, inside an agent's network namespace, on its loopback: whoever asks there is the agent.
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

// Listen opens the sockets in ns, whose loopback is up: of datagrams and streams at the forwarder's port, and of streams at that of the gateway
// for models; 0: there is none.
func Listen(ns *os.File, port, gateway uint16) (forwarder, calls *Sockets, err error) {
	forwarder, calls = &Sockets{}, &Sockets{}
	err = inside(ns, func() error {
		for _, host := range []string{"127.0.0.1", "::1"} {
			at := net.JoinHostPort(host, strconv.Itoa(int(port)))
			d, err := net.ListenPacket("udp", at)
			if host == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
				return nil
			}
			if err != nil {
				return err
			}
			forwarder.Datagrams = append(forwarder.Datagrams, d)
			if err := forwarder.listen(host, port); err != nil {
				return err
			}
			if gateway == 0 {
				continue
			}
			if err := calls.listen(host, gateway); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, errors.Join(err, forwarder.Close(), calls.Close())
	}
	return forwarder, calls, nil
}

func (s *Sockets) listen(host string, port uint16) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err == nil {
		s.Streams = append(s.Streams, l)
	}
	return err
}
