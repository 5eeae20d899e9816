/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Deciding: who acts, and whether the agent's rules and names grant a remote or a local end. */
#ifndef RAYPHER_NETGUARD_DECIDE_H
#define RAYPHER_NETGUARD_DECIDE_H

#define REPLY_NS 120000000000ULL /* how long a listening datagram socket may answer */

static __always_inline bool flow_equal(const struct flow *a, const struct flow *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/*
 * The agent whose process makes this call. False: a process outside of all agents acts, perhaps on an agent's socket (the
 * warden does, for a granted unix socket); the packet hooks then judge by the socket's own cgroup. An id of 0 is a
 * process directly in the parent's folder, which no entry matches.
 */
static __always_inline bool current_agent(__u64 *id)
{
	if (bpf_get_current_ancestor_cgroup_id(agent_level - 1) != parent_id)
		return false;
	*id = bpf_get_current_ancestor_cgroup_id(agent_level);
	return true;
}

/* What holds for an agent, as it is at one moment. False: nobody armed it. */
static __always_inline bool find_agent(const __u64 *id, struct agent *a)
{
	struct agent_entry *e = bpf_map_lookup_elem(&agents, id);

	if (!e)
		return false;
	bpf_spin_lock(&e->lock);
	*a = e->agent;
	bpf_spin_unlock(&e->lock);
	return a->cgroup == *id;
}

static __always_inline bool is_loopback(const struct flow *f)
{
	if (f->family == 4)
		return f->addr[0] == bpf_htonl(0x7f000001);
	return !f->addr[0] && !f->addr[1] && !f->addr[2] && f->addr[3] == bpf_htonl(1);
}

/* family 0: any. The forwarder listens over both. */
static __always_inline bool is_own_port(__u16 port, __u8 proto, __u8 family)
{
	int i;

	if (!port)
		return false;
	if (port == dns_port)
		return true;
	if (proto != IPPROTO_TCP)
		return false;
#pragma unroll
	for (i = 0; i < MAX_OWN_PORTS; i++)
		if (port == own_ports[i] && (!family || family == own_families[i]))
			return true;
	return false;
}

/* One of raypherd's ports, in the network namespace where it listens. */
static __always_inline bool is_own(const struct agent *a, const struct flow *f, __u64 netns)
{
	if (a->isolated) /* of ours these two are in there, and the rest of that loopback is the agent's */
		return is_loopback(f) && ((dns_port && f->port == bpf_htons(dns_port)) ||
					  (gateway_port && f->proto == IPPROTO_TCP && f->port == bpf_htons(gateway_port)));
	return netns == own_netns && is_loopback(f) && is_own_port(bpf_ntohs(f->port), f->proto, f->family);
}

struct question {
	__u64 cgroup;
	__u64 now;
	struct flow flow;
	__u32 slot;
	bool default_allow;
	bool own;	/* raypherd's own port */
	bool open;	/* the flow was open before the rules changed: an expired address of a name still holds */
	__u8 class;	/* what flow is; 0: a remote end */
	__u32 rule;	/* answer: by which rule */
};

/* How a flow is granted: by a rule, by a name's address, or because it leads to raypherd. */
enum grant { GRANT_NONE = 0, GRANT_RULE, GRANT_NAME, GRANT_OWN };

/* What the rules say of an end: nothing; it is granted; it lies in a hole that wide rules leave. */
enum said { SAID_NOTHING = 0, SAID_GRANTED, SAID_HOLE };

/* A function of its own, so that the type is among those that Go gets. */
static __noinline bool is_grant(const struct rule_said *r) { return r->says == RULE_GRANT; }

/* Looks for the key's port, then for every port. The longest prefix of each counts; one that grants outweighs the other's hole. */
static __noinline int in_trie(struct question *q, struct rule_key *key)
{
	__u32 slot = q->slot;	/* on the stack: Linux 6.1 takes no key out of a global function's argument */
	void *rules = bpf_map_lookup_elem(&slots, &slot);
	int said = SAID_NOTHING, i;

	if (!rules)
		return SAID_NOTHING;
	for (i = 0; i < 2; i++) {
		struct rule_said *r = bpf_map_lookup_elem(rules, key);

		if (r) {
			q->rule = r->id;
			if (is_grant(r))
				return SAID_GRANTED;
			said = SAID_HOLE;
		}
		key->port = 0;
	}
	return said;
}

static __always_inline int in_rules(struct question *q)
{
	struct rule_key key = { .prefixlen = RULE_PREFIX_BITS + (q->flow.family == 4 ? 32 : 128) };

	if (!q->slot)
		return SAID_NOTHING;
	key.class = q->flow.family | q->class;
	key.port = q->flow.port;
	__builtin_memcpy(key.addr, q->flow.addr, sizeof(key.addr));
	return in_trie(q, &key);
}

/* Names of streams are told apart by a hash: 32 bits of FNV-1a, in the order of the letters; never 0. */
static __always_inline __u32 server_hash(const char *name)
{
	__u32 hash = 2166136261u;
	int i;

	for (i = 0; i < NAME_BYTES - 1; i++) {
		if (!name[i])
			break;
		hash = (hash ^ (__u8)name[i]) * 16777619u;
	}
	return hash ? hash : 1;
}

/* Whether an operator has cut the agent from this remote end; s may be NULL. Costs nothing where nothing is cut. */
static __noinline int severed(struct agent *a, const struct flow *remote, struct sock_state *s)
{
	struct rule_key key = { .prefixlen = RULE_PREFIX_BITS + (remote->family == 4 ? 32 : 128) };
	struct cut_name name = { .cgroup = a->cgroup };
	__u32 slot = a->slot;
	void *rules;

	if (a->cut & CUT_ALL)
		return a->cut & CUT_REJECT ? CUT_WITH_ERROR : CUT_IN_SILENCE;
	if (a->cut & CUT_NAMES) {
		struct name_key by = { .cgroup = a->cgroup, .port = remote->port, .family = remote->family };
		struct name_grant *g;
		struct cut_said *said;

		name.server = s ? s->server : 0;
		if (!name.server) { /* it has said no name: the one that opened the address counts */
			__builtin_memcpy(by.addr, remote->addr, sizeof(by.addr));
			g = bpf_map_lookup_elem(&names, &by);
			if (!g) {
				by.port = 0;
				g = bpf_map_lookup_elem(&names, &by);
			}
			if (g)
				name.server = g->server;
		}
		said = bpf_map_lookup_elem(&cut_names, &name);
		if (said)
			return said->how;
	}
	if (!(a->cut & CUT_ADDRESSES) || !slot)
		return NOT_CUT;
	rules = bpf_map_lookup_elem(&slots, &slot);
	if (rules) {
		struct rule_said *r;

		key.class = remote->family | CLASS_CUT;
		__builtin_memcpy(key.addr, remote->addr, sizeof(key.addr));
		r = bpf_map_lookup_elem(rules, &key);
		if (r)
			return r->says == RULE_CUT_REJECT ? CUT_WITH_ERROR : CUT_IN_SILENCE;
	}
	return NOT_CUT;
}

/* Ports on which a stream begins with a TLS hello (IANA, and 8443 by habit). */
static __always_inline bool is_tls_port(__be16 port)
{
	switch (bpf_ntohs(port)) {
	case 443: case 465: case 563: case 636: case 853: case 989: case 990: case 992: case 993: case 994: case 995:
	case 5061: case 8443:
		return true;
	}
	return false;
}

#define PORT_DOT 853	/* DNS over TLS, RFC 7858 */

/*
 * Names open what can be held to a name: on the ports of TLS streams alone, since nothing reads QUIC, and DNS over TLS only
 * where a rule names its port.
 */
static __always_inline bool in_names(struct question *q)
{
	struct name_key key = { .cgroup = q->cgroup, .port = q->flow.port, .family = q->flow.family };
	struct name_grant *g;

	if (q->flow.proto != IPPROTO_TCP && is_tls_port(q->flow.port))
		return false;
	__builtin_memcpy(key.addr, q->flow.addr, sizeof(key.addr));
	g = bpf_map_lookup_elem(&names, &key);
	if (!(g && (q->open || q->now < g->expires))) {
		if (q->flow.port == bpf_htons(PORT_DOT))
			return false;
		key.port = 0;
		g = bpf_map_lookup_elem(&names, &key);
		if (!(g && (q->open || q->now < g->expires)))
			return false;
	}
	q->rule = g->rule;
	return true;
}

/*
 * Costs up to two trie and two hash lookups. Flows that depend on more than the rules, or last, keep the answer in their
 * socket. Global, so that it is verified once.
 */
__noinline int granted(struct question *q)
{
	int said;

	if (!q)
		return GRANT_NONE;
	q->rule = RULE_NONE;
	if (q->class)
		return in_rules(q) == SAID_GRANTED ? GRANT_RULE : GRANT_NONE;
	if (q->own) {
		q->rule = RULE_OWN;
		return GRANT_OWN;
	}
	/* Plain DNS reaches the forwarder or nothing, whatever the rules say. */
	if (q->flow.port == bpf_htons(53))
		return GRANT_NONE;
	said = in_rules(q);
	if (said == SAID_GRANTED)
		return GRANT_RULE;
	if (said == SAID_NOTHING && q->default_allow) {
		q->rule = RULE_DEFAULT_ALLOW;
		return GRANT_RULE;
	}
	return in_names(q) ? GRANT_NAME : GRANT_NONE;
}

/* Has a datagram come from this end to a port of the agent a while ago? */
static __always_inline bool awaits_reply(const struct question *q, const struct flow *remote, __be16 port)
{
	struct reply_key key = { .remote = *remote, .port = port };
	__u32 slot = q->slot;
	void *of = bpf_map_lookup_elem(&replies, &slot);
	__u64 *last = of ? bpf_map_lookup_elem(of, &key) : NULL;

	return last && q->now - *last <= REPLY_NS;
}

/* Notes that one has come. */
static __always_inline void await_reply(const struct question *q, const struct flow *remote, __be16 port)
{
	struct reply_key key = { .remote = *remote, .port = port };
	__u32 slot = q->slot;
	void *of = bpf_map_lookup_elem(&replies, &slot);
	__u64 now = q->now;

	if (of)
		bpf_map_update_elem(of, &key, &now, BPF_ANY);
}

enum held { HELD_NOT, HELD_OLD, HELD };

/* Whether the socket's last remote end is this one, under the rules in force (HELD) or under earlier ones (HELD_OLD). */
static __always_inline int held(struct sock_state *s, const struct agent *a, const struct flow *f)
{
	int r = HELD_NOT;

	if (!s)
		return HELD_NOT;
	bpf_spin_lock(&s->lock);
	if (s->agent == a->cgroup && flow_equal(&s->decided, f))
		r = s->generation == a->generation ? HELD : HELD_OLD;
	bpf_spin_unlock(&s->lock);
	return r;
}

static __always_inline void hold(struct sock_state *s, const struct agent *a, const struct flow *f, __u32 rule)
{
	bpf_spin_lock(&s->lock);
	s->agent = a->cgroup;
	s->generation = a->generation;
	s->slot = a->slot;
	s->rule = rule;
	s->decided = *f;
	bpf_spin_unlock(&s->lock);
}

/* What was decided of this remote end no longer holds: the name that granted it may have expired since. */
static __always_inline void let_go(struct sock_state *s, const struct flow *f)
{
	bpf_spin_lock(&s->lock);
	if (flow_equal(&s->decided, f))
		__builtin_memset(&s->decided, 0, sizeof(s->decided));
	bpf_spin_unlock(&s->lock);
}

#endif
