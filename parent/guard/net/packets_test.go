package netguard

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/raypher/raypher/policy"
)

// TestPackets: what a raw socket makes is judged packet by packet. Agents cannot have one; here it is opened in mode audit,
// and then the mode changes, so that the floor is seen alone.
func TestPackets(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	g := w.load(t, Options{})
	events := record(t, g)
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{}, policy.Audit)
	probes := map[bool]*probe{}
	for _, v6 := range []bool{false, true} {
		probes[v6] = w.startProbe(t, a.fd)
		to := at(far4, 0)
		if v6 {
			to = at(far6, 0)
		}
		probes[v6].expect(action{Do: "raw-open", To: to}, "", "")
	}
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2/32:80", "[fd77::2]:80"}}, policy.Enforce)

	udp := func(port uint16) []byte {
		b := make([]byte, 8, 16)
		binary.BigEndian.PutUint16(b[0:], 4000)
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint16(b[4:], 16)
		return append(b, "hi there"...)
	}
	syn := func(port uint16) []byte {
		b := make([]byte, 20)
		binary.BigEndian.PutUint16(b[0:], 4000)
		binary.BigEndian.PutUint16(b[2:], port)
		b[12], b[13] = 5<<4, 0x02
		return b
	}
	data := func(port uint16) []byte { b := syn(port); b[13] = 0x18; return b }
	extension := func(next byte, body []byte) []byte { return append([]byte{next, 0, 0, 0, 0, 0, 0, 0}, body...) }
	const (
		hopByHop, routing, fragment, authentication, destination = 0, 43, 44, 51, 60
	)
	for _, c := range []struct {
		name   string
		packet []byte
		passes bool
		reason Reason
	}{
		{"granted udp", packet4(17, 0, nil, udp(80)), true, 0},
		{"granted syn", packet4(6, 0, nil, syn(80)), true, 0},
		{"other port", packet4(17, 0, nil, udp(81)), false, NotGranted},
		{"data without a connection, other port", packet4(6, 0, nil, data(81)), false, NotGranted},
		{"dns", packet4(17, 0, nil, udp(53)), false, NotGranted},
		{"icmp echo", packet4(1, 0, nil, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}), false, Unreadable},
		{"sctp", packet4(132, 0, nil, udp(80)), false, Unreadable},
		{"ip in ip", packet4(4, 0, nil, packet4(17, 0, nil, udp(80))), false, Unreadable},
		{"later fragment", packet4(17, 0x0001, nil, udp(80)), false, Unreadable},
		{"first fragment without ports", packet4(17, 0x2000, nil, []byte{1, 2, 3}), false, Unreadable},
		{"loose source route", packet4(17, 0, []byte{131, 7, 4, 10, 77, 1, 2, 0}, udp(80)), false, Unreadable},

		{"granted udp, ipv6", packet6(far6, 17, udp(80)), true, 0},
		{"behind destination options", packet6(far6, destination, extension(17, udp(80))), true, 0},
		{"other port, ipv6", packet6(far6, 17, udp(81)), false, NotGranted},
		{"other port behind options", packet6(far6, destination, extension(17, udp(81))), false, NotGranted},
		{"other port behind two options", packet6(far6, hopByHop, extension(destination, extension(6, syn(81)))), false, NotGranted},
		{"icmp echo, ipv6", packet6(far6, 58, []byte{128, 0, 0, 0, 0, 0, 0, 0}), false, Unreadable},
		{"routing header", packet6(far6, routing, extension(17, udp(80))), false, Unreadable},
		{"authentication header", packet6(far6, authentication, extension(17, udp(80))), false, Unreadable},
		{"later fragment, ipv6", packet6(far6, fragment, []byte{17, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4}), false, Unreadable},
		{"first fragment, other port", packet6(far6, fragment, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, udp(81)...)), false, NotGranted},
	} {
		t.Run(c.name, func(t *testing.T) {
			v6 := c.packet[0]>>4 == 6
			w.forget()
			events.forget()
			to := at(far4, 0)
			if v6 {
				to = at(far6, 0)
			}
			o := probes[v6].do(action{Do: "raw-send", To: to, Data: hex.EncodeToString(c.packet)})
			if c.passes {
				if o.Err != "" || !w.sees(c.packet) {
					t.Errorf("program got %+v; want it to pass", o)
				}
				return
			}
			e := events.wait(t, c.name, func(e Event) bool { return e.CgroupID == a.id && e.Layer == "cgroup_skb/egress" })
			if e.Reason != c.reason || c.reason == Unreadable && e.Destination.Port() != 0 {
				t.Errorf("event %+v; want reason %d, and a port only where one was read", e, c.reason)
			}
			if _, packets := w.forget(); len(packets) != 0 {
				t.Errorf("the far end saw %q", packets)
			}
		})
	}
	t.Run("of an agent that has ended", func(t *testing.T) {
		must(t, g.Disarm(a.id))
		events.forget()
		group := netip.MustParseAddr("ff02::16") // what a namespace says about groups when it goes is nobody's act
		for _, packet := range [][]byte{packet6(group, hopByHop, extension(58, []byte{143, 0, 0, 0, 0, 0, 0, 0})), packet6(far6, 17, udp(80))} {
			probes[true].do(action{Do: "raw-send", To: at(far6, 0), Data: hex.EncodeToString(packet)})
		}
		events.wait(t, "of the datagram", func(e Event) bool { return e.Reason == UnknownAgent && e.Destination == at(far6, 80) })
		for _, e := range events.of(a) {
			if e.Destination.Addr() == group {
				t.Errorf("event %+v", e)
			}
		}
		if _, packets := w.forget(); len(packets) != 0 {
			t.Errorf("the far end saw %q", packets)
		}
	})
}

func packet4(protocol byte, fragment uint16, options, payload []byte) []byte {
	b := make([]byte, 20)
	b[0] = 4<<4 | byte(5+len(options)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+len(payload)))
	binary.BigEndian.PutUint16(b[4:], 1) // an id, or the kernel sets one
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = 64, protocol
	copy(b[12:], near4.AsSlice())
	copy(b[16:], far4.AsSlice())
	return append(append(b, options...), payload...)
}

func packet6(to netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = next, 64
	copy(b[8:], near6.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}
