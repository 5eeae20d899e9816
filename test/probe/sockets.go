package probe

import (
	"fmt"
	"maps"
	"os"

	"golang.org/x/sys/unix"
)

func init() {
	maps.Copy(Actions, map[string]func([]string) error{
		"connect-abstract": func(a []string) error { return dial(unix.SOCK_STREAM, "@"+a[0]) },
		"bind-abstract":    func(a []string) error { return bind("@" + a[0]) },
		"bind":             func(a []string) error { return bind(a[0]) },
		"send-datagram":    sendDatagram,
		"send-abstract":    func(a []string) error { return sendDatagram([]string{"@" + a[0]}) },
		"connect-datagram": func(a []string) error { return dial(unix.SOCK_DGRAM, a[0]) },
		"connect-packet":   func(a []string) error { return dial(unix.SOCK_SEQPACKET, a[0]) },
		"connect-own":      connectOwn,
		"pass-descriptor":  passDescriptor,
	})
}

func dial(kind int, name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: name})
}

func bind(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
}

func sendDatagram(a []string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("datagram"), 0, &unix.SockaddrUnix{Name: a[0]})
}

// connectOwn binds an abstract name and connects to it: the agent's own sockets are its own business.
func connectOwn(a []string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + a[0]}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 1); err != nil {
		return err
	}
	return dial(unix.SOCK_STREAM, "@"+a[0])
}

// passDescriptor sends a descriptor of a file to itself and opens the file again through what it received.
func passDescriptor(a []string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	file, err := unix.Open(a[0], unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(file), nil, 0); err != nil {
		return err
	}
	room, control := make([]byte, 8), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[1], room, control, 0)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d messages: %v", len(messages), err)
	}
	got, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	defer unix.Close(got[0])
	return Closed(unix.Open(fmt.Sprintf("/proc/self/fd/%d", got[0]), Flags(a[1]), 0))
}

// playVictim says that it is there and waits until its standard input ends: a process that others try to harm.
func playVictim() int {
	fmt.Println("here")
	var room [1]byte
	for {
		if n, err := os.Stdin.Read(room[:]); n == 0 || err != nil {
			return 0
		}
	}
}

func init() {
	Actions["send-many"] = func(a []string) error { // number: a datagram to so many ports of this host
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range Number(a[0]) {
			// Silence looks like success.
			_ = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 10000 + i, Addr: [4]byte{127, 0, 0, 1}})
		}
		return nil
	}
	Actions["open-many"] = func(a []string) error { // number, path: opens it so often, and wants it refused
		for range Number(a[0]) {
			if err := Closed(unix.Open(a[1], unix.O_RDONLY, 0)); err != unix.EACCES {
				return fmt.Errorf("answered %v", err)
			}
		}
		return nil
	}
}
