/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * State of the programs at interfaces, beside that of the network guard, whose agents, rules, names and events they share. Go reads these
 * layouts through generated types; they stand only here.
 */
#ifndef RAYPHER_XDPGUARD_STATE_H
#define RAYPHER_XDPGUARD_STATE_H

#define MAX_PASSING 65536	/* flows of all isolated agents */
#define REFUSED_ENDS 8		/* destinations that were refused a moment ago, of one wire on one CPU; a power of two */
#define MAX_FRAGMENTED 4096	/* datagrams of theirs that are on their way in pieces */

/* The wire of one isolated agent. Written by raypherd only. */
struct wire {
	__u64 cgroup;
	__u32 agent4;		/* network order, as all addresses here */
	__u32 host4;
	__u32 agent6[4];
	__u32 host6[4];
	__u8 agent_mac[6];
	__u8 host_mac[6];
	__u8 reserved[4];
};

/* A flow that was granted: its packets go on as those of an open socket do (netguard/decide.h). */
struct passing_key {
	__u64 cgroup;
	struct flow remote;
	__be16 port;
	__u8 reserved[2];
};

/* A datagram whose first piece was granted (RFC 791, RFC 8200: source, destination, protocol and identification). */
struct fragmented_key {
	__u64 cgroup;
	__u32 addr[4];
	__u32 id;
	__u8 family;
	__u8 proto;
	__u8 reserved[2];
};

/* What was dropped of one agent, or of all since the programs were loaded. */
struct dropped {
	__u64 packets;
	__u64 bytes;
};

#define WIRE_TOTAL 1		/* no cgroup has so low an id: the root's is 1, and no agent's; wires that are gone */
#define GUARD_TOTAL 2

/* A destination that was refused and reported: what follows in the next moment is only counted. */
struct refused_end {
	struct flow remote;
	__be16 port;		/* of the agent's last flow there that was refused */
	__u16 flows;		/* refused there meanwhile, as far as they were looked at */
	__u64 since;		/* CLOCK_MONOTONIC_COARSE, nanoseconds */
	__u64 generation;	/* of the rules that refused it */
	__u32 slot;
	__u32 reserved;
};

/* A wire as one CPU sees it: all that a dropped frame needs. */
struct lane {
	struct wire wire;
	struct dropped dropped;
	struct refused_end refused[REFUSED_ENDS];
};

/* Keyed by the index of a wire's host end. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_AGENTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct lane);
} wires SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PASSING);
	__type(key, struct passing_key);
	__type(value, __u64);		/* generation of the rules that let it */
} passing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct fragmented_key);
	__type(value, __u64);		/* CLOCK_BOOTTIME, nanoseconds */
} fragmented SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_AGENTS * 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct dropped);
} drops SEC(".maps");

/* Addresses of wires, of every agent of this host: the ends of others are nobody's destination. Set once, before loading. */
volatile const __u32 block4 = 0, block4_mask = 0xffffffff;
volatile const __u32 block6[2] = {};

#endif
