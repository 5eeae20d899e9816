/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An interface of the host (raypherd --xdp): packets that come in for an agent's socket, and that none of its flows asked for,
 * are dropped before the stack has seen them. Only packets that the kernel would hand to an agent's socket are judged; whatever
 * leads elsewhere, or cannot be read, goes on: the host's own services are never cut off, and the cgroup's hooks are behind this.
 */

/* The agent whose socket this is, from the socket's cgroup. False: it is not an agent's. */
static __noinline bool agent_of_socket(struct bpf_sock *sk, __u64 *id)
{
	struct bpf_sock *volatile held = sk;
	struct sock *address = NULL;
	struct cgroup *group = NULL, *parent = NULL, *own = NULL;
	struct kernfs_node *node;
	__u64 above = 0;
	int level = 0;

	/* The verifier keeps the type of sk; read back as a number it may be looked behind. */
	if (bpf_probe_read_kernel(&address, sizeof(address), (const void *)&held))
		return false;
	group = BPF_CORE_READ(address, sk_cgrp_data.cgroup);
	if (!group)
		return false;
	level = BPF_CORE_READ(group, level);
	if (level < (int)agent_level || agent_level < 1)
		return false;
	bpf_core_read(&parent, sizeof(parent), &group->ancestors[agent_level - 1]);
	bpf_core_read(&own, sizeof(own), &group->ancestors[agent_level]);
	above = BPF_CORE_READ(parent, kn, id);
	if (above != parent_id)
		return false;
	node = BPF_CORE_READ(own, kn);
	*id = BPF_CORE_READ(node, id);
	return true;
}

struct coming {
	struct frame frame;
	struct question question;
	struct bpf_sock_tuple tuple;
};

static __always_inline __u32 tuple_of(struct coming *c)
{
	struct frame *f = &c->frame;

	if (f->source.family == 4) {
		c->tuple.ipv4.saddr = f->source.addr[0];
		c->tuple.ipv4.daddr = f->destination.addr[0];
		c->tuple.ipv4.sport = f->source.port;
		c->tuple.ipv4.dport = f->destination.port;
		return sizeof(c->tuple.ipv4);
	}
	__builtin_memcpy(c->tuple.ipv6.saddr, f->source.addr, 16);
	__builtin_memcpy(c->tuple.ipv6.daddr, f->destination.addr, 16);
	c->tuple.ipv6.sport = f->source.port;
	c->tuple.ipv6.dport = f->destination.port;
	return sizeof(c->tuple.ipv6);
}

static __always_inline void count_drop(__u64 of, __u64 bytes)
{
	struct dropped *d = bpf_map_lookup_elem(&drops, &of), fresh = { 1, bytes };

	if (d) {
		d->packets++;
		d->bytes += bytes;
		return;
	}
	bpf_map_update_elem(&drops, &of, &fresh, BPF_NOEXIST);
}

/* Whether a packet for an agent's socket was asked for: by a rule to listen, or because the agent may send there. */
static __noinline bool was_asked_for(struct coming *c, __u64 id)
{
	struct question *q = &c->question;
	struct agent a;

	if (!find_agent(&id, &a))
		return true; /* the cgroup's hooks have the word */
	q->now = bpf_ktime_get_boot_ns();
	if (q->now >= a.deadline)
		return false;
	if (a.mode != MODE_ENFORCE)
		return true;
	q->cgroup = id;
	q->slot = a.slot;
	q->default_allow = a.default_allow;
	q->class = CLASS_LISTEN;
	q->flow = c->frame.destination;
	if (granted(q))
		return true;
	q->class = CLASS_FROM;
	q->flow = c->frame.source;
	q->flow.port = c->frame.destination.port;
	if (granted(q))
		return true;
	if (c->frame.source.proto == IPPROTO_TCP)
		return false;
	q->class = 0;
	q->flow = c->frame.source;
	q->open = true; /* whether a name's address has expired is the socket's to know */
	return granted(q);
}

/* Hook: XDP at an interface of the host. XDP_PASS or XDP_DROP. A packet costs one look-up of its socket. */
SEC("xdp")
int raypher_guard(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 bytes = end - data, id = 0;
	struct ethernet *eth = data;
	struct coming c = {};
	struct bpf_sock *sk;
	bool decided, agents;
	__u32 size;

	if ((void *)(eth + 1) > end || !read_frame(ctx, &c.frame, eth->type) || c.frame.piece != PIECE_WHOLE)
		return XDP_PASS;
	size = tuple_of(&c);
	if (c.frame.source.proto == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(ctx, &c.tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (c.frame.source.proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(ctx, &c.tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return XDP_PASS;
	if (!sk)
		return XDP_PASS;
	/* A connected socket was found by both ends: its flow is its own. */
	decided = c.frame.source.proto == IPPROTO_TCP ? sk->state != BPF_TCP_LISTEN : sk->dst_port != 0;
	agents = !decided && agent_of_socket(sk, &id);
	bpf_sk_release(sk);
	if (!agents || was_asked_for(&c, id))
		return XDP_PASS;
	count_drop(id, bytes);
	count_drop(GUARD_TOTAL, bytes);
	return XDP_DROP;
}
