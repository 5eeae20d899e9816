/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets
 */

static __always_inline void record_peer(struct sock_state *s, __u64 cgroup, const struct flow *source)
{
	struct peer value = { .cgroup = cgroup };
	struct peer_key key = {};

	if (s->source.port && !flow_equal(&s->source, source)) /* it was taken apart and connected again */
		end_peer(s);
	key.netns = s->netns;
	__builtin_memcpy(key.addr, source->addr, sizeof(key.addr));
	key.port = source->port;
	key.proto = source->proto;
	key.family = source->family;
	bpf_map_update_elem(&peers, &key, &value, BPF_ANY);
	s->source = *source;
}

enum passage { WENT_OUT, CAME_IN, DROPPED };

/* Counts a packet for the rule that decided it. Where the map is full, new rules are not counted; nothing else depends on it. */
static __noinline int count_packet(struct __sk_buff *skb, __u64 cgroup, __u32 rule, enum passage way)
{
	struct traffic_key key = { .cgroup = cgroup, .rule = rule };
	struct traffic *t = bpf_map_lookup_elem(&passed, &key);
	__u64 packets = skb->gso_segs ? skb->gso_segs : 1;

	if (!t) {
		struct traffic none = {};

		bpf_map_update_elem(&passed, &key, &none, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&passed, &key);
		if (!t)
			return 0;
	}
	/* Atomic although each CPU has its own: a packet that comes in may interrupt one that leaves. */
	switch (way) {
	case WENT_OUT:
		__sync_fetch_and_add(&t->packets_out, packets);
		__sync_fetch_and_add(&t->bytes_out, skb->len);
		break;
	case CAME_IN:
		__sync_fetch_and_add(&t->packets_in, packets);
		__sync_fetch_and_add(&t->bytes_in, skb->len);
		break;
	case DROPPED:
		__sync_fetch_and_add(&t->dropped_packets, packets);
		__sync_fetch_and_add(&t->dropped_bytes, skb->len);
		break;
	}
	return 0;
}

/* Refuses a packet that leaves, or lets it by its agent's mode. */
static __noinline int refuse_packet(const struct packet *p, __u64 cgroup, enum reason reason, struct agent *a, struct sock_state *s)
{
	struct refusal r = {};

	r.what.cgroup = cgroup;
	r.what.flow = p->destination;
	r.what.operation = p->destination.proto == IPPROTO_TCP ? OP_CONNECT : OP_SEND;
	r.what.layer = LAYER_EGRESS;
	r.what.reason = reason;
	r.what.rule = p->rule;
	if (a && (reason == REASON_NOT_GRANTED || reason == REASON_UNREADABLE))
		r.what.mode = a->mode;
	if (s) {
		r.pid = s->pid;
		__builtin_memcpy(r.comm, s->comm, sizeof(r.comm));
		if (flow_equal(&s->refused, &p->destination))
			return DROP_SILENTLY; /* reported already: this is the packet of a call, or sent again */
	}
	if (a && r.what.mode != MODE_ENFORCE) {
		report(&r);
		if (s)
			hold(s, a, &p->destination, p->rule);
		return PASS;
	}
	/* A stream's sender is told nothing here, whatever on_deny says: TCP takes no error from a packet. */
	if (p->destination.proto != IPPROTO_TCP && (!a || a->reject))
		r.error = EPERM;
	report(&r);
	if (s && p->destination.proto == IPPROTO_TCP)
		s->refused = p->destination;
	return r.error ? REFUSE : DROP_SILENTLY;
}

/* A stream of an agent on its way out. */
struct stream {
	struct __sk_buff *skb;
	const struct packet *packet;
	__u64 cgroup;
	struct agent *agent;
	struct bpf_sock *sk;
	struct sock_state *state;
	const char *name;	/* that a refused hello asked for; NULL: none */
	enum reason reason;	/* of the refusal */
};

/* Refuses the first bytes of a stream, or lets them by its agent's mode. */
static __noinline int refuse_hello(struct stream *st)
{
	const char *name = st->name;
	struct sock_state *s = st->state;
	struct refusal r = {};

	if (flow_equal(&s->refused, &st->packet->destination))
		return DROP_SILENTLY;
	r.what.cgroup = st->cgroup;
	r.what.flow = st->packet->destination;
	r.what.operation = OP_CONNECT;
	r.what.layer = LAYER_EGRESS;
	r.what.reason = st->reason;
	r.what.mode = st->reason == REASON_CUT ? MODE_ENFORCE : st->agent->mode;
	r.what.rule = st->packet->rule;
	r.pid = s->pid;
	__builtin_memcpy(r.comm, s->comm, sizeof(r.comm));
	if (name) {
		int i;

		for (i = 0; i < PATH_BYTES; i++)
			r.what.path = r.what.path * 31 + name[i];
	}
	report_path(&r, name, name ? PATH_BYTES : 0);
	if (r.what.mode != MODE_ENFORCE) {
		s->hello = HELLO_GRANTED;
		return PASS;
	}
	s->refused = st->packet->destination;
	return DROP_SILENTLY;
}

#define TCP_SEQUENCE 4		/* RFC 9293 section 3.1 */
#define TCP_OFFSET 12

/* What await_hello answers with: its caller refuses, because the kernel bounds the stacks of calls together (512 bytes). */
static __always_inline int refused_hello(struct stream *st, enum reason reason, const char *name)
{
	st->reason = reason;
	st->name = name;
	return REFUSE;
}

/*
 * A packet of a stream whose hello is awaited. An address that a name opened may be shared with other names, so the first
 * bytes must ask for one that was resolved for this agent. Until they did, no other bytes leave. What is sent again is what
 * was read: the kernel copied it from the program, but where the program sends pages (sendfile, splice, MSG_ZEROCOPY).
 */
static __noinline int await_hello(struct stream *st)
{
	struct sock_state *s = st->state;
	struct __sk_buff *skb = st->skb;
	struct server_key *key;
	__be32 sequence;
	__u32 offset = st->packet->transport;
	__u8 words, flags;

	if (bpf_skb_load_bytes(skb, offset + TCP_SEQUENCE, &sequence, sizeof(sequence)) ||
	    bpf_skb_load_bytes(skb, offset + TCP_OFFSET, &words, sizeof(words)) ||
	    bpf_skb_load_bytes(skb, offset + TCP_FLAGS, &flags, sizeof(flags)))
		return REFUSE;
	if (st->packet->opens)
		s->first = bpf_ntohl(sequence) + 1;
	offset += (words >> 4) * 4;
	if (offset >= skb->len)
		return PASS;
	if (!st->packet->opens && bpf_ntohl(sequence) != s->first) /* behind a hello that did not leave */
		return st->agent->mode == MODE_ENFORCE ? DROP_SILENTLY : PASS;
	if (flags & TCP_URG) /* the receiver takes the urgent byte out, and reads another hello than this one */
		return refused_hello(st, REASON_NO_HELLO, NULL);
	key = bpf_sk_storage_get(&hellos, st->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!key)
		return refused_hello(st, REASON_UNREADABLE, NULL);
	__builtin_memset(key, 0, sizeof(*key));
	key->cgroup = st->cgroup;
	switch (tls_read(skb, offset, skb->len, key->name)) {
	case TLS_NAME:
		s->server = server_hash(key->name);
		if (st->agent->cut && severed(st->agent, &st->packet->destination, s))
			return refused_hello(st, REASON_CUT, key->name);
		if (!bpf_map_lookup_elem(&servers, key))
			return refused_hello(st, REASON_SERVER_NAME, key->name);
		s->hello = HELLO_GRANTED;
		bpf_sk_storage_delete(&hellos, st->sk);
		return PASS;
	case TLS_NO_NAME:
		return refused_hello(st, REASON_NO_SERVER_NAME, NULL);
	case TLS_SPLIT:
		/* What is sent again is joined with what was written meanwhile, as far as one segment holds it. */
		if (s->hello == HELLO_AWAITED && st->agent->mode == MODE_ENFORCE) {
			s->hello = HELLO_HELD;
			return DROP_SILENTLY;
		}
		return refused_hello(st, REASON_SPLIT_HELLO, NULL);
	default:
		return refused_hello(st, REASON_NO_HELLO, NULL);
	}
}

static __always_inline int judge_hello(struct stream *st)
{
	int verdict = await_hello(st);

	return st->reason ? refuse_hello(st) : verdict;
}

static __always_inline void ask(struct question *q, const struct flow *f, const struct agent *a, __u64 cgroup, __u64 now)
{
	q->cgroup = cgroup;
	q->now = now;
	q->flow = *f;
	q->slot = a->slot;
	q->default_allow = a->default_allow;
	q->own = false;
	q->open = false;
	q->class = 0;
}

/* May flows between these ends be opened from outside: by everyone to the local end, or by this remote end to the local port? */
static __always_inline bool lets_in(struct question *q, const struct flow *local, const struct flow *remote, const struct agent *a)
{
	/* Whoever binds to port 0 may get one of raypherd's while that is away, and would be called in its stead. */
	if (is_own_port(bpf_ntohs(local->port), local->proto, 0))
		return false;
	ask(q, local, a, q->cgroup, q->now);
	q->class = CLASS_LISTEN;
	if (granted(q))
		return true;
	q->flow = *remote;
	q->flow.port = local->port;
	q->class = CLASS_FROM;
	return granted(q);
}

/* May this packet leave from a port where the agent listens? Then something must have come in before. */
static __always_inline bool answers(struct question *q, const struct packet *p, const struct agent *a, struct sock_state *s)
{
	if (p->source.proto == IPPROTO_TCP) {
		if (p->opens || !s || !s->passive)
			return false;
	} else if (!awaits_reply(q, &p->destination, p->source.port)) {
		return false;
	}
	return lets_in(q, &p->source, &p->destination, a);
}

#define LASTING_SEGMENTS 8

/* Is a flow that a rule grants worth a state of its own? A stream once it lasts, and what is only lent, which goes on when the loan ends. */
static __always_inline bool lasts(struct bpf_sock *sk, const struct packet *p)
{
	struct bpf_tcp_sock *tcp;

	if (p->source.proto != IPPROTO_TCP)
		return p->rule == RULE_LOAN;
	tcp = bpf_tcp_sock(sk);
	return tcp && tcp->segs_out >= LASTING_SEGMENTS;
}

/*
 * What the kernel of a namespace says to its routers (MLD, neighbours: ff02::/32) belongs to who made the namespace: an isolated agent's
 * runner, also when the agent has ended and the namespace goes.
 */
static __always_inline bool is_chatter(const struct packet *p)
{
	return !p->transport && p->destination.family == 6 && p->destination.addr[0] == bpf_htonl(0xff020000);
}

/* A packet that leaves; what decided it lands in p->rule. Answers as the hook does. */
static __always_inline int judge_leaving(struct __sk_buff *skb, struct packet *p, __u64 id, struct agent *a, struct bpf_sock *sk, __u64 now)
{
	struct sock_state *s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct question q = {};
	int h, grant;

	if (s)
		s->owner = id;
	if (now >= a->deadline)
		return refuse_packet(p, id, REASON_EXPIRED, a, s);
	h = held(s, a, &p->destination);
	if (a->cut && h != HELD) {
		int how = severed(a, &p->destination, s);

		p->rule = RULE_OPERATOR;
		if (how)
			return refuse_packet(p, id, REASON_CUT, how == CUT_WITH_ERROR ? NULL : a, s);
		p->rule = RULE_NONE;
	}
	if (p->transport == 0) {
		if (a->isolated && is_chatter(p))
			return DROP_SILENTLY;
		return refuse_packet(p, id, REASON_UNREADABLE, a, s);
	}
	if (h == HELD)
		p->rule = s->rule;
	if (h == HELD && p->destination.proto == IPPROTO_TCP && (s->hello == HELLO_AWAITED || s->hello == HELLO_HELD)) {
		struct stream st = { skb, p, id, a, sk, s, NULL, 0 };

		return judge_hello(&st);
	}
	if (h == HELD && p->destination.proto == IPPROTO_TCP && !p->opens)
		return PASS;
	q.own = s && is_own(a, &p->destination, s->netns);
	if (q.own && (p->opens || p->destination.proto == IPPROTO_UDP))
		record_peer(s, id, &p->source);
	if (h == HELD)
		return PASS;
	grant = q.own;
	ask(&q, &p->destination, a, id, now);
	q.own = grant;
	q.open = h == HELD_OLD && !p->opens;
	grant = granted(&q);
	p->rule = q.rule;
	if (grant == GRANT_RULE && !s)
		keep_recent(bpf_get_socket_cookie(skb), a, &p->destination, q.rule);
	if (!grant && answers(&q, p, a, s)) {
		p->rule = q.rule;
		if (p->source.proto != IPPROTO_TCP) /* decided each time: it is open no longer than an answer may take */
			return PASS;
		grant = GRANT_RULE;
	}
	if (!s && (grant != GRANT_RULE || lasts(sk, p)))
		s = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!grant)
		return refuse_packet(p, id, REASON_NOT_GRANTED, a, s);
	if (!s)
		return PASS;
	s->owner = id;
	if (grant != GRANT_NAME) {
		s->hello = HELLO_NONE;
	} else if (p->destination.proto == IPPROTO_TCP && is_tls_port(p->destination.port) && s->hello != HELLO_GRANTED) {
		struct stream st = { skb, p, id, a, sk, s, NULL, 0 };

		/* A rule that is gone granted it, or it began before it was an agent's: what it asked for was not read. */
		if (!p->opens && s->hello == HELLO_NONE)
			return refuse_packet(p, id, REASON_NO_HELLO, a, s);
		if (s->hello == HELLO_NONE)
			s->hello = HELLO_AWAITED;
		hold(s, a, &p->destination, p->rule);
		return judge_hello(&st);
	}
	hold(s, a, &p->destination, p->rule);
	return PASS;
}

/* Is this a packet of a flow that was decided, which counts for the standing's agent and rule? */
static __always_inline bool goes_on(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p, const struct flow *remote, struct standing *st)
{
	struct sock_state *s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	bool alone;

	if (!s)
		return is_recent(bpf_get_socket_cookie(skb), remote, st) && st->agent == bpf_skb_ancestor_cgroup_id(skb, agent_level);
	alone = remote->proto == IPPROTO_TCP && sk->state != BPF_TCP_LISTEN;
	if (alone && s->hello != HELLO_NONE && s->hello != HELLO_GRANTED)
		return false;
	if (!stands(s, remote, alone, st))
		return false;
	/* Who sends to one of raypherd's ports is noted. */
	return st->rule != RULE_OWN || (remote->proto == IPPROTO_TCP && !p->opens);
}

/*
 * Each packet of an agent's socket, before it is cut or queued. PASS; REFUSE: dropped, a datagram's sender gets EPERM;
 * DROP_SILENTLY: dropped, nobody is told. A packet of an open flow costs the socket's state, its agent's term and a counter.
 */
SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	struct standing st = {};
	struct packet p = {};
	struct bpf_sock *sk;
	struct agent a;
	int verdict;
	__u64 id;

	if (!read_packet(skb, &p))
		p.transport = 0;
	sk = skb->sk;
	if (!sk) /* the hook is never called without one */
		return REFUSE;
	if (p.transport && goes_on(skb, sk, &p, &p.destination, &st)) {
		count_packet(skb, st.agent, st.rule, WENT_OUT);
		return PASS;
	}
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return REFUSE;
	id = bpf_skb_ancestor_cgroup_id(skb, agent_level);
	if (!find_agent(&id, &a)) {
		if (is_chatter(&p))
			return DROP_SILENTLY;
		return refuse_packet(&p, id, REASON_UNKNOWN_AGENT, NULL, bpf_sk_storage_get(&sockets, sk, NULL, 0));
	}
	verdict = judge_leaving(skb, &p, id, &a, sk, bpf_ktime_get_boot_ns());
	count_packet(skb, id, p.rule, verdict == PASS ? WENT_OUT : DROPPED);
	return verdict;
}

/* A packet that comes in; what decided it lands in p->rule. */
static __always_inline int judge_coming(struct __sk_buff *skb, struct packet *p, bool readable, __u64 id, struct agent *a, struct bpf_sock *sk, __u64 now)
{
	struct sock_state *s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct question q = {};
	int h;

	h = held(s, a, &p->source);
	if (a->cut && h != HELD) {
		p->rule = RULE_OPERATOR;
		if (severed(a, &p->source, s))
			return REFUSE;
		p->rule = RULE_NONE;
	}
	if (h == HELD)
		p->rule = s->rule;
	if (a->mode != MODE_ENFORCE)
		return PASS;
	if (!readable)
		return REFUSE;
	if (h == HELD && !p->opens)
		return PASS;
	ask(&q, &p->source, a, id, now);
	q.own = s && is_own(a, &p->source, s->netns);
	q.open = h == HELD_OLD;
	if (!p->opens) {
		int grant = granted(&q);

		if (grant == GRANT_RULE && !s)
			keep_recent(bpf_get_socket_cookie(skb), a, &p->source, q.rule);
		if (grant) {
			p->rule = q.rule;
			return PASS;
		}
	}
	if (p->source.proto == IPPROTO_TCP && !p->opens && !(s && s->passive))
		return REFUSE;
	if (!lets_in(&q, &p->destination, &p->source, a))
		return REFUSE;
	p->rule = q.rule;
	if (p->source.proto != IPPROTO_TCP) {
		await_reply(&q, &p->source, p->destination.port);
		return PASS;
	}
	if (!s)
		s = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return REFUSE;
	s->passive = 1; /* copied to the socket that will be accepted */
	return PASS;
}

/*
 * Each packet that would reach an agent's socket, put together again: replies of decided flows, and what may come in to a port
 * of the agent. Others are dropped and counted; they are no act of the agent, so there is no event.
 */
SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	struct standing st = {};
	struct packet p = {};
	struct counters *c;
	struct bpf_sock *sk;
	struct agent a;
	int verdict = REFUSE;
	bool readable, known;
	__u64 id, now;

	readable = read_packet(skb, &p);
	sk = skb->sk;
	if (sk && readable && !p.opens && goes_on(skb, sk, &p, &p.source, &st)) {
		count_packet(skb, st.agent, st.rule, CAME_IN);
		return PASS;
	}
	id = bpf_skb_ancestor_cgroup_id(skb, agent_level);
	now = bpf_ktime_get_boot_ns();
	known = find_agent(&id, &a);
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (known && sk && now < a.deadline)
		verdict = judge_coming(skb, &p, readable, id, &a, sk, now);
	if (known)
		count_packet(skb, id, p.rule, verdict == PASS ? CAME_IN : DROPPED);
	if (verdict == PASS)
		return PASS;
	c = bpf_map_lookup_elem(&counts, &id);
	if (c)
		__sync_fetch_and_add(&c->incoming, 1);
	return REFUSE;
}
