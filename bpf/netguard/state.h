/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * State of the network guard: what raypherd writes (agents, rules, names), what the programs keep (sockets, peers, replies),
 * and what they report. Go reads these layouts through generated types; they stand only here.
 */
#ifndef RAYPHER_NETGUARD_STATE_H
#define RAYPHER_NETGUARD_STATE_H

#define MAX_AGENTS 4096
#define MAX_RULES 65536		/* of one agent */
#define MAX_NAMES 262144	/* addresses that names resolved to, of all agents */
#define MAX_PEERS 16384
#define MAX_REPLIES 4096	/* of one agent that listens */
#define MAX_FOLDS 8192
#define MAX_CUT_NAMES 16384
#define MAX_TRAFFIC 262144	/* rules of all agents that something passed by */
#define RECENT_FLOWS 256	/* of each CPU; a power of two */
#define MAX_OWN_PORTS 8
#define PATH_BYTES 108		/* sun_path, unix(7) */
#define NAME_BYTES 256		/* a DNS name is at most 253 (RFC 1035 section 2.3.4) */

/* Enumerations are one byte, so that they are the types of fields. */
#define BYTE __attribute__((packed))

enum mode { MODE_ENFORCE = 0, MODE_AUDIT, MODE_PERMISSIVE } BYTE;

/* What an operator has cut: bits of agent.cut. */
enum cut { CUT_ALL = 1, CUT_REJECT = 2 /* EPERM for CUT_ALL */, CUT_ADDRESSES = 4, CUT_NAMES = 8 } BYTE;

/* What holds for one agent. */
struct agent {
	__u64 cgroup;		/* whose it is: an entry that was given away meanwhile is not believed */
	__u64 deadline;		/* CLOCK_BOOTTIME, nanoseconds: closed from then on */
	__u64 generation;	/* changes with the rules: open flows are then decided again. No two rules of any agents have the same; never 0 */
	__u32 slot;		/* of its rules and its term; never 0 */
	enum mode mode;
	__u8 reject;		/* on_deny: 1 EPERM, 0 silence */
	__u8 default_allow;
	enum cut cut;
	__u8 isolated;		/* in a network namespace of its own, where the forwarder listens too */
	__u8 reserved[7];
};

/*
 * How long flows go on that were decided under a generation: what a packet of an open flow needs to know of its agent, by slot. It is
 * shorter than what the agent's entry says for the moments in which raypherd writes both, never longer: the entry is then asked.
 */
struct term {
	__u64 generation;
	__u64 deadline;		/* 0: ask the agent's entry */
};

/*
 * Keyed by the id of its cgroup. Written by raypherd only, in place and under the lock (BPF_F_LOCK): the programs read
 * generation, slot and deadline of one moment, and never an entry that the map has handed to another agent while they read.
 */
struct agent_entry {
	struct bpf_spin_lock lock;
	__u32 reserved;
	struct agent agent;
};

/* One end of a flow. IPv4-mapped IPv6 addresses are IPv4 here: one rule, one form. Compared as five words. */
struct flow {
	__u32 addr[4];		/* network order; IPv4 in addr[0] */
	__be16 port;
	__u8 family;		/* 4 or 6 */
	__u8 proto;
};

/*
 * Rules of one agent: a trie of (class, port, prefix). The port stands before the address and is always matched whole, so
 * that each port has a trie of its own, as has "every port" (0): a long prefix with one port hides no short one with another.
 */
struct rule_key {
	__u32 prefixlen;	/* 32 + length of the address prefix */
	__u8 class;
	__u8 zero;
	__be16 port;
	__u32 addr[4];
};

/* What a rule says of its prefix. Holes are the reserved ranges in wider rules. */
enum rule { RULE_GRANT = 0, RULE_HOLE, RULE_CUT, RULE_CUT_REJECT };

/* By which rule something was decided. Rules of a policy have a hash of their text (RULE_OF_POLICY is set in it). */
enum rule_id { RULE_NONE = 0, RULE_OWN, RULE_DEFAULT_ALLOW, RULE_LOAN, RULE_OPERATOR, RULE_RESERVED_RANGE };

struct rule_said {
	enum rule says;
	enum rule_id id;	/* or of a rule of the policy */
};

/* Classes, added to the family. Without one: a remote end. */
#define CLASS_LISTEN 0x10	/* a local end: may be bound, and everyone may open flows to it */
#define CLASS_FROM 0x20		/* the address of who opens a flow, the port of the local end */
#define CLASS_BIND 0x40		/* a local port that may be bound, whatever the address */
#define CLASS_CUT 0x80		/* a remote address that an operator has cut */
#define RULE_PREFIX_BITS 32

struct rules {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct rule_key));
	__uint(value_size, sizeof(struct rule_said));
};

/* An address that a granted name resolved to. Kept after it expired, for flows that are open when the rules change. */
struct name_key {
	__u64 cgroup;
	__u32 addr[4];
	__be16 port;
	__u8 family;
	__u8 reserved[5];
};

struct name_grant {
	__u64 expires;		/* CLOCK_BOOTTIME, nanoseconds */
	__u32 rule;		/* that grants the name */
	__u32 server;		/* its hash */
	char name[NAME_BYTES];	/* for raypherd: a rule that goes takes its addresses with it */
};

/* Who sent to one of raypherd's own ports. */
struct peer_key {
	__u64 netns;
	__u32 addr[4];
	__be16 port;
	__u8 proto;
	__u8 family;
	__u8 reserved[4];
};

struct peer {
	__u64 cgroup;
	__u64 closed;		/* when the socket was closed; 0: open */
};

/* A datagram came from remote to a port the agent may listen on: it may answer. */
struct reply_key {
	struct flow remote;
	__be16 port;
	__u8 reserved[2];
};

/* Of one agent: whoever floods it with senders takes no answers from others. The value: when, CLOCK_BOOTTIME in nanoseconds. */
struct reply_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_REPLIES);
	__uint(key_size, sizeof(struct reply_key));
	__uint(value_size, sizeof(__u64));
};

/* Whether a stream to a name's address has to say, in its first bytes, for which name. */
enum hello { HELLO_NONE = 0, HELLO_AWAITED, HELLO_HELD /* a piece of it came */, HELLO_GRANTED } BYTE;

/*
 * What is known of one socket of an agent, where there is something to know. Accepted sockets begin with a copy of their
 * listener's.
 */
struct sock_state {
	/* What packets of an open flow need lies in one line of the cache: the kernel begins values 8 bytes behind the start of one. */
	struct bpf_spin_lock lock;	/* of slot, decided, generation, rule, agent: two threads may send on one socket */
	__u16 slot;		/* of the agent when it was decided */
	enum hello hello;
	__u8 passive;		/* a granted SYN came in to it or its listener */
	__u64 owner;		/* whose cgroup the socket is of, which stays; 0: no packet has told yet */
	__u64 agent;		/* for whom it was decided: who acted, perhaps on another's socket */
	__u64 generation;
	struct flow decided;	/* the remote end under agent and generation */
	__u32 rule;		/* that granted decided */
	__u32 pid;		/* thread group that last named a destination */
	__u64 netns;		/* 0: not known */
	char comm[16];
	struct flow refused;	/* reported by a call's hook already: its packets are only counted */
	struct flow asked;	/* the DNS server that the agent meant */
	struct flow source;	/* of its peer entry; port 0: none */
	__u32 first;		/* sequence number of the first byte that it sends, host order */
	__u32 server;		/* hash of the name that its hello asked for; 0: none */
};

/* A flow that a rule of a policy granted on one CPU, by its socket's cookie: 60 bytes, a line of the cache. */
struct recent {
	__u64 stamp;		/* changes with each other flow; odd while it is written */
	__u64 cookie;
	__u64 generation;
	__u64 agent;
	struct flow remote;
	__u32 rule;
	__u32 slot;
};

/* A name that was resolved for an agent, which a TLS hello may then ask for. In lower case, zeros behind it. */
struct server_key {
	__u64 cgroup;
	char name[NAME_BYTES];
};

/* How an end is cut. */
enum severance { NOT_CUT = 0, CUT_IN_SILENCE, CUT_WITH_ERROR };

/* A name that an operator has cut, by the hash of a server name. */
struct cut_name {
	__u64 cgroup;
	__u32 server;
	__u32 reserved;
};

struct cut_said {
	enum severance how;
	__u32 by;		/* hash of the cut, which may be a wildcard */
};

/* What one rule let through and, for ids that are no rules of a policy, what was dropped. Packets as the host cuts them for the wire. */
struct traffic_key {
	__u64 cgroup;
	__u32 rule;
	__u32 reserved;
};

struct traffic {
	__u64 packets_out;
	__u64 bytes_out;	/* with IP headers */
	__u64 packets_in;
	__u64 bytes_in;
	__u64 dropped_packets;	/* in both directions */
	__u64 dropped_bytes;
};

struct counters {
	__u64 refused;
	__u64 would_block;
	__u64 incoming;
	__u64 suppressed;	/* refused, beyond the rate of single events */
	__u64 window;		/* start of the second in which recent were reported */
	__u64 recent;
};

/* The programs, as reported. */
enum layer {
	LAYER_CONNECT4 = 1, LAYER_CONNECT6, LAYER_SENDMSG4, LAYER_SENDMSG6, LAYER_BIND4, LAYER_BIND6, LAYER_SOCK_CREATE,
	LAYER_EGRESS, LAYER_CONNECT_UNIX, LAYER_SENDMSG_UNIX, LAYER_XDP,
} BYTE;

enum operation { OP_CONNECT = 1, OP_SENDTO, OP_SEND, OP_BIND, OP_SOCKET, OP_CONNECT_UNIX, OP_SENDTO_UNIX } BYTE;

enum reason { REASON_NOT_GRANTED = 0, REASON_EXPIRED, REASON_UNKNOWN_AGENT, REASON_UNREADABLE,
	REASON_NO_HELLO, REASON_SPLIT_HELLO, REASON_NO_SERVER_NAME, REASON_SERVER_NAME, REASON_CUT, REASON_SOURCE /* of a frame: not the agent's */ } BYTE;

/* What is the same in equal events. */
struct fold_key {
	__u64 cgroup;
	struct flow flow;
	__u32 path;		/* hash of a unix socket's path */
	enum operation operation;
	enum layer layer;
	enum reason reason;
	enum mode mode;
	__u32 rule;		/* enum rule_id */
};

struct fold {
	__u64 start;		/* of the second in which equal events are only counted */
	__u64 folded;
	__u32 pid;
	__s32 error;
	char comm[16];
};

struct event {
	struct fold_key what;
	__u64 time;		/* CLOCK_BOOTTIME, nanoseconds */
	__u64 count;
	__u32 pid;
	__s32 error;		/* errno that the program gets; 0: silence */
	char comm[16];
	__u32 path_length;
	char path[PATH_BYTES];	/* as in sun_path: an abstract one begins with a zero byte; or a server's name, cut */
};

enum statistic { STAT_EVENTS, STAT_FOLDED, STAT_CARRIED, STAT_LOST, STATS };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u64);
	__type(value, struct agent_entry);
} agents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u32);
	__type(value, struct term);
} terms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RECENT_FLOWS);
	__type(key, __u32);
	__type(value, struct recent);
} recents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u64);
	__type(value, struct counters);
} counts SEC(".maps");

/* How much of counters.suppressed raypherd has reported; its own note, kept here because it outlives it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u64);
	__type(value, __u64);
} reported SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u32);
	__array(values, struct rules);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct name_key);
	__type(value, struct name_grant);
} names SEC(".maps");

/* The value: when the last answer ends, as in name_grant; for raypherd, which forgets the name some time later. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct server_key);
	__type(value, __u64);
} servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CUT_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct cut_name);
	__type(value, struct cut_said);
} cut_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_TRAFFIC);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct traffic_key);
	__type(value, struct traffic);
} passed SEC(".maps");

/* Room for the name in a socket's hello, while it is awaited. The socket's lock is held wherever it is used. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct server_key);
} hellos SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PEERS);
	__type(key, struct peer_key);
	__type(value, struct peer);
} peers SEC(".maps");

/* By slot; nothing lies there for agents that may not listen. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_AGENTS);
	__type(key, __u32);
	__array(values, struct reply_map);
} replies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sock_state);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FOLDS);
	__type(key, struct fold_key);
	__type(value, struct fold);
} folds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__type(value, struct event);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STATS);
	__type(key, enum statistic);
	__type(value, __u64);
} statistics SEC(".maps");

/* Set once, before loading. */
volatile const __u32 agent_level = 0;	/* depth of the agents' cgroups, the root is 0 */
volatile const __u64 parent_id = 0;	/* their parent */
volatile const __u64 own_netns = 0;	/* where raypherd listens: network namespace cookie */
volatile const __u16 dns_port = 0;	/* host order; 0: no forwarder */
volatile const __u16 gateway_port = 0;	/* host order, in isolated agents' namespaces too; 0: no gateway */
volatile const __u16 own_ports[MAX_OWN_PORTS] = {};
volatile const __u8 own_families[MAX_OWN_PORTS] = {};	/* 4 or 6, of each */

#endif
