// Package xdpguard is the guard at interfaces: XDP programs that judge frames before the kernel's stack has seen them. One sits at
// the host end of each isolated agent's wire (package isolate) and drops what the agent may not send, whoever in its namespace made
// it and however. The other sits at an interface of the host (raypherd --xdp) and drops what comes in for an agent's socket and
// none of its flows asked for.
//
// Both judge by the network guard's agents, rules and names; their state is pinned beside its. They are attached without a link, so
// that they stay when raypherd dies: a wire's as long as the wire, an interface's until a raypherd takes it over or away.
//
// XDP sees incoming packets only. What an agent that is not isolated sends is the cgroup's hooks' to hold.
//
// raypherd is the only caller. All methods of Guard may be called concurrently.
package xdpguard
