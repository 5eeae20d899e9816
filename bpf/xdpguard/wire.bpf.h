/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire of an isolated agent: all that leaves its network namespace comes in at the host end of a veth, whoever in there
 * made it and however. What is not granted is dropped before the host's stack has seen it.
 */

#define FRAGMENTS_NS 30000000000ULL /* net.ipv4.ipfrag_time: how long a receiver waits for the rest */

/*
 * How long a refused flow is not looked at again: a flood costs little. What new rules grant opens at once; an address that a name or a loan
 * opens meanwhile, that much later for this flow, and for others to the same destination if that many were refused there already.
 */
#define REFUSED_NS 250000000ULL
#define FLOOD_FLOWS 32

/* What becomes of a frame: it goes on; it is dropped; so it is and was told; it is dropped as chatter of the namespace's kernel. */
enum fate { FATE_PASS = 0, FATE_REFUSE, FATE_REFUSED_AGAIN, FATE_IGNORE };

struct leaving {
	struct frame frame;
	struct question question;
	enum reason reason;
};

/* Both lie at even offsets. */
static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline bool same_addr(const struct flow *f, const __u32 *v6, __u32 v4)
{
	if (f->family == 4)
		return f->addr[0] == v4;
	return f->addr[0] == v6[0] && f->addr[1] == v6[1] && f->addr[2] == v6[2] && f->addr[3] == v6[3];
}

/* An end of any wire of this host. */
static __always_inline bool in_block(const struct flow *f)
{
	if (f->family == 4)
		return (f->addr[0] & block4_mask) == block4;
	return f->addr[0] == block6[0] && f->addr[1] == block6[1];
}

/* RFC 826: the agent asks for the host end, or answers it, in its own name. */
static __always_inline enum fate judge_arp(struct xdp_md *ctx, const struct wire *w)
{
	struct {
		__be16 hardware, protocol;
		__u8 lengths[2];
		__be16 operation;
		__u8 from_mac[6], from[4], to_mac[6], to[4];
	} arp;
	__u32 from, to;

	if (bpf_xdp_load_bytes(ctx, ETH_BYTES, &arp, sizeof(arp)))
		return FATE_REFUSE;
	__builtin_memcpy(&from, arp.from, 4);
	__builtin_memcpy(&to, arp.to, 4);
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.lengths[0] != 6 || arp.lengths[1] != 4)
		return FATE_REFUSE;
	if (!same_mac(arp.from_mac, w->agent_mac) || from != w->agent4 || to != w->host4)
		return FATE_REFUSE;
	return arp.operation == bpf_htons(1) || arp.operation == bpf_htons(2) ? FATE_PASS : FATE_REFUSE;
}

/* May this leave from a port where the agent listens? To the host alone: nobody else can open a flow over the wire. */
static __noinline bool answers_host(struct leaving *l, const struct agent *a)
{
	struct question *q = &l->question;
	struct frame *f = &l->frame;

	if (f->source.proto == IPPROTO_TCP) {
		if (f->opens)
			return false;
	} else if (!awaits_reply(q, &f->destination, f->source.port)) {
		return false;
	}
	q->open = false;
	q->flow = f->source;
	q->class = CLASS_LISTEN;
	if (granted(q))
		return true;
	q->flow = f->destination;
	q->flow.port = f->source.port;
	q->class = CLASS_FROM;
	return granted(q);
}

/* Is this flow one of those that were granted, or is it now? */
static __always_inline bool may_pass(struct leaving *l, const struct agent *a)
{
	struct question *q = &l->question;
	struct passing_key key = { .cgroup = q->cgroup, .remote = l->frame.destination, .port = l->frame.source.port };
	__u64 *by = bpf_map_lookup_elem(&passing, &key), generation = a->generation;

	if (by && *by == generation && !l->frame.opens)
		return true;
	q->flow = l->frame.destination;
	q->open = by && !l->frame.opens;
	if (!granted(q))
		return false;
	bpf_map_update_elem(&passing, &key, &generation, BPF_ANY);
	return true;
}

/* An error of RFC 792 or RFC 4443 that the agent's kernel sends: about a packet that came to the agent from whom it may reach. */
static __noinline bool judge_error(struct xdp_md *ctx, const struct wire *w, struct leaving *l)
{
	struct frame *f = &l->frame;
	struct question *q = &l->question;
	__u32 offset = f->transport + 8;
	__be16 port;

	q->flow = f->destination;
	q->open = true;
	if (f->source.family == 4) {
		struct iphdr ip;

		if (bpf_xdp_load_bytes(ctx, offset, &ip, sizeof(ip)) || ip.ihl != 5 || ip.daddr != w->agent4 || ip.saddr != f->destination.addr[0])
			return false;
		q->flow.proto = ip.protocol;
		offset += sizeof(ip);
	} else {
		struct flow inner = { .family = 6 };
		struct ipv6hdr ip;

		if (bpf_xdp_load_bytes(ctx, offset, &ip, sizeof(ip)))
			return false;
		__builtin_memcpy(inner.addr, &ip.saddr, 16);
		if (!same_addr(&f->destination, inner.addr, 0))
			return false;
		__builtin_memcpy(inner.addr, &ip.daddr, 16);
		if (!same_addr(&inner, w->agent6, 0))
			return false;
		q->flow.proto = ip.nexthdr;
		offset += sizeof(ip);
	}
	if (q->flow.proto != IPPROTO_TCP && q->flow.proto != IPPROTO_UDP)
		return false;
	if (bpf_xdp_load_bytes(ctx, offset, &port, sizeof(port)))
		return false;
	q->flow.port = port;
	return granted(q);
}

#define ND_TARGET 8 /* RFC 4861 section 4.3 */

/* Neighbours (RFC 4861): the host end and nobody else. What a kernel says by itself when a link comes up is nobody's act. */
static __always_inline enum fate judge_neighbour(struct xdp_md *ctx, const struct wire *w, const struct frame *f)
{
	struct flow target = { .family = 6 };

	switch (f->icmp) {
	case 130: case 131: case 132: case 133: case 143: /* listeners (RFC 2710, 3810), router solicitation */
		return FATE_IGNORE;
	}
	if (bpf_xdp_load_bytes(ctx, f->transport + ND_TARGET, target.addr, sizeof(target.addr)))
		return FATE_REFUSE;
	if (!f->source.addr[0]) /* fe80:: is not 0: the unspecified address, which looks for duplicates */
		return FATE_IGNORE;
	if (!same_addr(&f->source, w->agent6, 0))
		return FATE_REFUSE;
	if (f->icmp == 135)
		return same_addr(&target, w->host6, 0) ? FATE_PASS : FATE_REFUSE;
	return same_addr(&target, w->agent6, 0) && same_addr(&f->destination, w->host6, 0) ? FATE_PASS : FATE_REFUSE;
}

static __always_inline bool is_neighbour(const struct frame *f)
{
	return f->source.family == 6 && f->source.proto == IPPROTO_ICMP6 && ((f->icmp >= 130 && f->icmp <= 136) || f->icmp == 143);
}

static __always_inline bool is_echo(const struct frame *f)
{
	return f->icmp == (f->source.family == 4 ? 8 : 128);
}

static __always_inline bool is_error(const struct frame *f)
{
	if (f->source.family == 6)
		return f->icmp >= 1 && f->icmp <= 4;
	return f->icmp == 3 || f->icmp == 11 || f->icmp == 12;
}

/* The pieces of a datagram that come after the first one, which was granted. */
static __always_inline bool piece_passes(struct leaving *l)
{
	struct frame *f = &l->frame;
	struct fragmented_key key = { .cgroup = l->question.cgroup, .id = f->id, .family = f->source.family, .proto = f->source.proto };
	__u64 now = l->question.now, *first;

	__builtin_memcpy(key.addr, f->destination.addr, sizeof(key.addr));
	if (f->piece == PIECE_FIRST)
		return !bpf_map_update_elem(&fragmented, &key, &now, BPF_ANY);
	first = bpf_map_lookup_elem(&fragmented, &key);
	return first && now - *first < FRAGMENTS_NS;
}

static __always_inline struct refused_end *refused_at(struct lane *lane, const struct flow *remote)
{
	__u32 index = (remote->addr[0] ^ remote->addr[3] ^ remote->port ^ remote->port >> 8) & (REFUSED_ENDS - 1);

	return &lane->refused[index];
}

/* Was this very flow refused a moment ago, or is it one more of a flood to a destination that is refused? */
static __always_inline bool refused_again(struct lane *lane, const struct flow *remote, __be16 port)
{
	struct refused_end *e = refused_at(lane, remote);
	__u32 slot = e->slot;
	struct term *t;

	if (!flow_equal(&e->remote, remote) || bpf_ktime_get_coarse_ns() - e->since >= REFUSED_NS)
		return false;
	t = bpf_map_lookup_elem(&terms, &slot);
	if (!t || t->generation != e->generation)
		return false;
	if (e->port != port) {
		struct passing_key key = { .cgroup = lane->wire.cgroup, .remote = *remote, .port = port };

		if (e->flows < FLOOD_FLOWS || bpf_map_lookup_elem(&passing, &key))
			return false;
		e->port = port;
	}
	return true;
}

/* Notes a refused flow. To the host it may be an answer, which depends on more than its ends. */
static __always_inline void note_refused(struct lane *lane, const struct frame *f, const struct agent *a)
{
	struct refused_end *e = refused_at(lane, &f->destination);
	__u64 now = bpf_ktime_get_coarse_ns();

	if (!flow_equal(&e->remote, &f->destination) || now - e->since >= REFUSED_NS || e->generation != a->generation) {
		e->remote = f->destination;
		e->since = now;
		e->generation = a->generation;
		e->slot = a->slot;
		e->flows = 0;
	}
	e->port = f->source.port;
	if (e->flows < FLOOD_FLOWS)
		e->flows++;
}

/* The frames of a flood, before anything else is read of them: IPv4 in one piece, to a destination that was refused. */
static __always_inline bool is_flood(struct xdp_md *ctx, struct lane *lane)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	struct iphdr *ip = data + ETH_BYTES;
	struct {
		__be16 source, destination;
	} *ports = data + ETH_BYTES + sizeof(*ip);
	struct flow remote = { .family = 4 };

	if ((void *)(ports + 1) > end || eth->type != bpf_htons(ETH_P_IP) || ip->version != 4 || ip->ihl != 5 ||
	    (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) || (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP))
		return false;
	if (ip->saddr != lane->wire.agent4 || !same_mac(eth->from, lane->wire.agent_mac) || !same_mac(eth->to, lane->wire.host_mac))
		return false;
	remote.addr[0] = ip->daddr;
	remote.port = ports->destination;
	remote.proto = ip->protocol;
	return refused_again(lane, &remote, ports->source);
}

static __always_inline enum fate not_granted(struct leaving *l, enum reason reason)
{
	l->reason = reason;
	return FATE_REFUSE;
}

/* A frame of the agent's own address, under rules that are enforced. */
static __always_inline enum fate judge_flow(struct xdp_md *ctx, struct lane *lane, struct leaving *l, struct agent *a)
{
	const struct wire *w = &lane->wire;
	struct frame *f = &l->frame;
	bool to_host = same_addr(&f->destination, w->host6, w->host4);

	if (f->piece == PIECE_LATER)
		return piece_passes(l) ? FATE_PASS : not_granted(l, REASON_UNREADABLE);
	if (to_host)
		return f->source.port && answers_host(l, a) ? FATE_PASS : not_granted(l, REASON_NOT_GRANTED);
	if (in_block(&f->destination))
		return not_granted(l, REASON_NOT_GRANTED);
	if (f->source.proto == IPPROTO_ICMP || f->source.proto == IPPROTO_ICMP6) {
		if (is_error(f))
			return judge_error(ctx, w, l) ? FATE_PASS : not_granted(l, REASON_NOT_GRANTED);
		if (!is_echo(f))
			return not_granted(l, REASON_UNREADABLE);
	}
	if (!may_pass(l, a)) {
		if (f->piece == PIECE_WHOLE && f->source.port)
			note_refused(lane, f, a);
		return not_granted(l, REASON_NOT_GRANTED);
	}
	return f->piece == PIECE_WHOLE || piece_passes(l) ? FATE_PASS : not_granted(l, REASON_UNREADABLE);
}

static __always_inline enum fate judge_leaving(struct xdp_md *ctx, struct lane *lane, struct leaving *l)
{
	const struct wire *w = &lane->wire;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	struct frame *f = &l->frame;
	__u64 cgroup = w->cgroup;
	struct agent a;
	bool to_host;
	__be16 type;

	l->reason = REASON_UNREADABLE;
	if ((void *)(eth + 1) > end)
		return FATE_REFUSE;
	type = eth->type;
	to_host = same_mac(eth->to, w->host_mac);
	if (!same_mac(eth->from, w->agent_mac))
		return not_granted(l, REASON_SOURCE);
	if (type == bpf_htons(ETH_P_ARP))
		return judge_arp(ctx, w);
	if (!read_frame(ctx, f, type))
		return FATE_REFUSE;
	if (is_neighbour(f))
		return judge_neighbour(ctx, w, f);
	if (!to_host)
		return FATE_REFUSE;
	if (!same_addr(&f->source, w->agent6, w->agent4))
		return not_granted(l, REASON_SOURCE);
	if (f->piece == PIECE_WHOLE && f->source.port && refused_again(lane, &f->destination, f->source.port))
		return FATE_REFUSED_AGAIN;
	if (!find_agent(&cgroup, &a))
		return not_granted(l, REASON_UNKNOWN_AGENT);
	l->question.cgroup = cgroup;
	l->question.now = bpf_ktime_get_boot_ns();
	l->question.slot = a.slot;
	l->question.default_allow = a.default_allow;
	if (l->question.now >= a.deadline)
		return not_granted(l, REASON_EXPIRED);
	a.cut &= ~CUT_NAMES; /* held where the server name of a stream is known: an address may be several names' */
	if (a.cut && severed(&a, &f->destination, NULL)) /* in every mode, answers and pieces too */
		return not_granted(l, REASON_CUT);
	if (a.mode != MODE_ENFORCE)
		return FATE_PASS;
	return judge_flow(ctx, lane, l, &a);
}

/* Reports and counts a dropped frame. Its own function, because the stacks of calls are bounded together (512 bytes). */
static __noinline int refuse_leaving(const struct frame *f, __u64 cgroup, enum reason reason)
{
	struct refusal r = {};

	r.what.cgroup = cgroup;
	r.what.flow = f->destination;
	r.what.operation = f->destination.proto == IPPROTO_TCP ? OP_CONNECT : OP_SEND;
	r.what.layer = LAYER_XDP;
	r.what.reason = reason;
	return report(&r);
}

/*
 * Hook: XDP at the host end of a wire. XDP_PASS or XDP_DROP. A packet of a flow that goes on costs three hash lookups, one that
 * begins those of granted() besides; one that is dropped again a single one.
 */
SEC("xdp")
int raypher_wire(struct xdp_md *ctx)
{
	__u32 index = ctx->ingress_ifindex;
	struct lane *lane = bpf_map_lookup_elem(&wires, &index);
	__u64 bytes = ctx->data_end - ctx->data;
	enum fate fate = FATE_REFUSED_AGAIN;

	if (!lane)
		return XDP_DROP;
	if (!is_flood(ctx, lane)) {
		struct leaving l = {};

		fate = judge_leaving(ctx, lane, &l);
		if (fate == FATE_PASS)
			return XDP_PASS;
		if (fate == FATE_REFUSE)
			refuse_leaving(&l.frame, lane->wire.cgroup, l.reason);
	}
	if (fate != FATE_IGNORE) {
		lane->dropped.packets++;
		lane->dropped.bytes += bytes;
	}
	return XDP_DROP;
}
