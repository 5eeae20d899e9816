package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/raypher/raypher/test/farhost"
)

// hearing is a program that opens a datagram socket without connecting it, says its port, and then what comes.
const hearing = `
import socket, sys
s = socket.socket(socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 0))
name = sys.argv[2]
print(s.getsockname()[1], file=open(name, "w"), flush=True)
while True:
    words, peer = s.recvfrom(100)
    print(words.decode(), "from", peer[0], file=open(name, "a"), flush=True)
`

// TestInterface: raypherd --xdp drops at the interface what comes for an agent's socket from whom the agent may not speak with, over both
// families, and nothing of the host's own; also while raypherd is dead. It shows, counts, and goes when raypherd ends.
func TestInterface(t *testing.T) {
	have(t, "python3")
	m := newBareMachine(t)
	far := farhost.OpenStreet(t)
	m.open("--xdp", far.Link)
	if at := programAt(t, far.Link); at == nil || !at.Attached {
		t.Fatal("`ip link` shows no XDP program")
	}
	farhost.Must(t, os.WriteFile(filepath.Join(m.home.Work, "hear.py"), []byte(hearing), 0o644))
	policy := strings.Replace(ordinary, "127.0.0.1:8080", farhost.Far4+`, "[`+farhost.Far6+`]"`, 1)
	r := m.reside(policy)
	ports := map[string]int{}
	for family := range map[string]bool{"4": true, "6": true} {
		r.do("/usr/bin/python3 hear.py " + family + " heard" + family + " > /dev/null 2>&1 &")
		eventually(t, "the agent listens", func() bool {
			port, err := strconv.Atoi(strings.TrimSpace(m.heard(family)))
			ports[family] = port
			return err == nil
		})
	}
	own, err := net.ListenPacket("udp", ":0")
	farhost.Must(t, err)
	defer own.Close()
	held := func(when string) {
		t.Helper()
		before := m.dropped()
		words := strings.ReplaceAll(when, " ", "-")
		for family, hosts := range map[string][3]string{"4": {farhost.Other4, farhost.Far4, farhost.Near4}, "6": {farhost.Other6, farhost.Far6, farhost.Near6}} {
			for _, from := range hosts[:2] { // the stranger first: what is granted shows that it would have come
				far.Send(from, net.JoinHostPort(hosts[2], strconv.Itoa(ports[family])), words)
			}
			eventually(t, when+", the granted host is heard over IPv"+family, func() bool {
				return strings.Contains(m.heard(family), words+" from "+hosts[1]+"\n")
			})
			if all := m.heard(family); strings.Contains(all, hosts[0]+"\n") {
				t.Errorf("%s, a stranger is heard: %s", when, all)
			}
			far.Send(hosts[0], net.JoinHostPort(hosts[2], strconv.Itoa(own.LocalAddr().(*net.UDPAddr).Port)), words)
			b := make([]byte, 100)
			if n, _, err := own.ReadFrom(b); err != nil || string(b[:n]) != words {
				t.Errorf("%s, a service of the host got %q, %v", when, b[:n], err)
			}
		}
		if len(m.pair.Processes()) == 2 { // else nobody says
			eventually(t, when+", both drops are counted", func() bool { return m.dropped() >= before+2 })
		}
	}
	held("with raypherd")
	m.pair.KillParent()
	held("without raypherd")
	farhost.Must(t, m.pair.RestartParent(t.Context()))
	eventually(t, "raypherd finds its agent again", func() bool { return strings.Contains(m.raypher("agents", "list").stdout, "resident") })
	eventually(t, "what was dropped without raypherd is counted too", func() bool { return m.dropped() >= 4 })
	held("with the next raypherd")
	m.pair.Close()
	if at := programAt(t, far.Link); at != nil && at.Attached {
		t.Error("the program stays when raypherd has ended")
	}
}

// heard is what the agent's socket of a family has noted.
func (m *machine) heard(family string) string {
	text, _ := os.ReadFile(filepath.Join(m.home.Work, "heard"+family)) // not yet there
	return string(text)
}

// dropped is what raypherd says that programs at interfaces dropped.
func (m *machine) dropped() float64 {
	var status struct {
		Counters map[string]json.Number `json:"counters"`
	}
	_ = json.Unmarshal([]byte(m.raypher("status", "--json").stdout), &status) // raypherd may be dead
	n, _ := status.Counters["xdp_drop_interfaces"].Float64()
	return n
}

func programAt(t *testing.T, name string) *netlink.LinkXdp {
	t.Helper()
	l, err := netlink.LinkByName(name)
	farhost.Must(t, err)
	return l.Attrs().Xdp
}
