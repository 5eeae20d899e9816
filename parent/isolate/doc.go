// Package isolate gives agents a network namespace of their own (network.isolate in a policy): a wire (veth) into it, whose host end
// holds the allow-list in XDP (package xdpguard), addresses, routes, and NAT for what may leave.
//
// The namespace is made by `raypher run` before its floor: a process moves itself. raypherd wires it, from outside, when the warden
// says that the floor stands, and before the program is executed. The kernel takes the namespace away with the last process in it,
// and wire, addresses, routes and XDP program with the namespace, whoever is killed. What is the host's (forwarding, one table of
// nftables) is put back when the last wire of all raypherds is gone, or by the next raypherd that starts.
package isolate
