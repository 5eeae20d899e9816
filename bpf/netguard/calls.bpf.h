/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Destinations named in calls: connect and sendmsg
 */

enum answer { ANSWER_REFUSE, ANSWER_PASS, ANSWER_REDIRECT };

struct call {
	struct flow flow;
	enum operation operation;
	enum layer layer;
	__u32 rule;		/* by which it was decided */
};

static __always_inline void unspecified_is_loopback(struct flow *f)
{
	if (f->addr[0] | f->addr[1] | f->addr[2] | f->addr[3])
		return;
	if (f->family == 4)
		f->addr[0] = bpf_htonl(0x7f000001);
	else
		f->addr[3] = bpf_htonl(1);
}

static __always_inline void flow_of_ipv4(struct bpf_sock_addr *ctx, struct flow *f)
{
	f->family = 4;
	f->addr[0] = ctx->user_ip4;
	f->port = (__be16)ctx->user_port;
	f->proto = ctx->protocol;
}

static __always_inline void flow_of_ipv6(struct bpf_sock_addr *ctx, struct flow *f)
{
	__u32 a = ctx->user_ip6[0], b = ctx->user_ip6[1], c = ctx->user_ip6[2], d = ctx->user_ip6[3];

	f->port = (__be16)ctx->user_port;
	f->proto = ctx->protocol;
	if (!a && !b && c == bpf_htonl(0xffff)) {
		f->family = 4;
		f->addr[0] = d;
		return;
	}
	f->family = 6;
	f->addr[0] = a;
	f->addr[1] = b;
	f->addr[2] = c;
	f->addr[3] = d;
}

/* Refuses or, by mode and on_deny, lets the call go on. Called with the caller's names; a and s may be NULL. */
static __noinline int refuse_call(struct call *c, __u64 cgroup, enum reason reason, struct agent *a, struct sock_state *s)
{
	struct refusal r = {};
	bool silent = false;

	r.what.cgroup = cgroup;
	r.what.flow = c->flow;
	r.what.operation = c->operation;
	r.what.layer = c->layer;
	r.what.reason = reason;
	r.what.rule = c->rule;
	r.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(r.comm, sizeof(r.comm));
	if (a && reason == REASON_NOT_GRANTED) {
		r.what.mode = a->mode;
		silent = a->mode == MODE_ENFORCE && !a->reject && (c->operation == OP_CONNECT || c->operation == OP_SENDTO);
	}
	if (reason == REASON_CUT) /* whatever the agent's mode: a is NULL where it is said with an error */
		silent = a;
	if (a && r.what.mode != MODE_ENFORCE) {
		report(&r);
		if (s && (c->operation == OP_CONNECT || c->operation == OP_SENDTO))
			hold(s, a, &c->flow, c->rule);
		return ANSWER_PASS;
	}
	if (!silent) {
		r.error = EPERM;
		report(&r);
		return ANSWER_REFUSE;
	}
	/* A black hole: the call goes on, its packets are dropped at egress. Connecting a datagram socket sends none yet. */
	r.what.layer = LAYER_EGRESS;
	if (c->operation == OP_CONNECT && c->flow.proto != IPPROTO_TCP)
		return ANSWER_PASS;
	report(&r);
	if (s) {
		let_go(s, &c->flow);
		s->refused = c->flow;
	}
	return ANSWER_PASS;
}

/* The state of the calling socket, made when it has none, in the caller's name. */
static __always_inline struct sock_state *state_of(struct bpf_sock_addr *ctx, struct sock_state *s)
{
	if (!s)
		s = bpf_sk_storage_get(&sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return NULL;
	s->netns = bpf_get_netns_cookie(ctx);
	s->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(s->comm, sizeof(s->comm));
	return s;
}

/* Is this a datagram to where the socket's last one went, and nothing has changed? */
static __always_inline bool sends_on(struct bpf_sock_addr *ctx, const struct call *c, struct sock_state *s, __u64 id)
{
	struct standing st = {};

	if (c->operation != OP_SENDTO)
		return false;
	if (s)
		return stands(s, &c->flow, false, &st) && st.agent == id;
	return is_recent(bpf_get_socket_cookie(ctx), &c->flow, &st) && st.agent == id;
}

/*
 * Making a socket's state costs more than deciding; so a flow that a rule grants gets none here. If it lasts, egress makes it.
 */
static __noinline int answer_call(struct bpf_sock_addr *ctx, struct call *c)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(agent_level), now, netns;
	struct sock_state *s = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	struct question q = {};
	struct agent a;
	int h, grant;

	if (sends_on(ctx, c, s, id))
		return ANSWER_PASS;
	if (!find_agent(&id, &a)) {
		if (!current_agent(&id))
			return ANSWER_PASS;
		return refuse_call(c, id, REASON_UNKNOWN_AGENT, NULL, s);
	}
	now = bpf_ktime_get_boot_ns();
	netns = bpf_get_netns_cookie(ctx);
	if (now >= a.deadline)
		return refuse_call(c, id, REASON_EXPIRED, NULL, s);
	if (a.cut & CUT_ALL) {
		c->rule = RULE_OPERATOR;
		s = state_of(ctx, s);
		return refuse_call(c, id, REASON_CUT, a.cut & CUT_REJECT ? NULL : &a, s);
	}
	if (c->flow.port == bpf_htons(53) && dns_port && (netns == own_netns || a.isolated)) {
		s = state_of(ctx, s);
		if (!s)
			return refuse_call(c, id, REASON_UNREADABLE, NULL, NULL);
		s->asked = c->flow;
		return ANSWER_REDIRECT;
	}
	unspecified_is_loopback(&c->flow);
	/* Connecting a datagram socket to port 0 is how getaddrinfo sorts addresses (RFC 6724); nothing is sent. */
	if (c->operation == OP_CONNECT && c->flow.proto == IPPROTO_UDP && !c->flow.port)
		return ANSWER_PASS;
	h = c->operation == OP_SENDTO ? held(s, &a, &c->flow) : HELD_NOT;
	if (h == HELD)
		return ANSWER_PASS;
	if (a.cut) {
		int how = severed(&a, &c->flow, NULL);

		if (how) {
			c->rule = RULE_OPERATOR;
			s = state_of(ctx, s);
			return refuse_call(c, id, REASON_CUT, how == CUT_WITH_ERROR ? NULL : &a, s);
		}
	}
	q.cgroup = id;
	q.now = now;
	q.flow = c->flow;
	q.slot = a.slot;
	q.default_allow = a.default_allow;
	q.own = is_own(&a, &c->flow, netns);
	q.open = h == HELD_OLD;
	grant = granted(&q);
	if (grant == GRANT_RULE && !s) {
		keep_recent(bpf_get_socket_cookie(ctx), &a, &c->flow, q.rule);
		return ANSWER_PASS;
	}
	/* Whoever asked may be answered: whether from this address, only the packet tells. */
	if (!grant && c->operation == OP_SENDTO && ctx->sk && awaits_reply(&q, &c->flow, bpf_htons(ctx->sk->src_port)))
		return ANSWER_PASS;
	s = state_of(ctx, s);
	if (!s)
		return refuse_call(c, id, REASON_UNREADABLE, NULL, NULL);
	if (c->operation == OP_CONNECT)
		__builtin_memset(&s->refused, 0, sizeof(s->refused));
	c->rule = q.rule;
	if (!grant)
		return refuse_call(c, id, REASON_NOT_GRANTED, &a, s);
	if (c->operation == OP_CONNECT) {
		s->server = 0;
		s->hello = grant == GRANT_NAME && is_tls_port(c->flow.port) ? HELLO_AWAITED : HELLO_NONE;
	}
	hold(s, &a, &c->flow, q.rule);
	return ANSWER_PASS;
}

static __always_inline int call_ipv4(struct bpf_sock_addr *ctx, enum operation operation, enum layer layer)
{
	struct call c = { .operation = operation, .layer = layer };
	int answer;

	flow_of_ipv4(ctx, &c.flow);
	answer = answer_call(ctx, &c);
	if (answer == ANSWER_REFUSE)
		return REFUSE;
	if (answer == ANSWER_REDIRECT) {
		ctx->user_ip4 = bpf_htonl(0x7f000001);
		ctx->user_port = bpf_htons(dns_port);
	}
	return PASS;
}

static __always_inline int call_ipv6(struct bpf_sock_addr *ctx, enum operation operation, enum layer layer)
{
	struct call c = { .operation = operation, .layer = layer };
	int answer;

	flow_of_ipv6(ctx, &c.flow);
	answer = answer_call(ctx, &c);
	if (answer == ANSWER_REFUSE)
		return REFUSE;
	if (answer == ANSWER_REDIRECT) {
		if (c.flow.family == 4) { /* stays ::ffff:0:0/96 */
			ctx->user_ip6[3] = bpf_htonl(0x7f000001);
		} else {
			ctx->user_ip6[0] = 0;
			ctx->user_ip6[1] = 0;
			ctx->user_ip6[2] = 0;
			ctx->user_ip6[3] = bpf_htonl(1);
		}
		ctx->user_port = bpf_htons(dns_port);
	}
	return PASS;
}

/* connect(2), and sendto(2) with MSG_FASTOPEN, which connects. PASS, or REFUSE: EPERM. */
SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return call_ipv4(ctx, OP_CONNECT, LAYER_CONNECT4);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return call_ipv6(ctx, OP_CONNECT, LAYER_CONNECT6);
}

/* Datagrams that name their destination. A connected socket's are judged at egress only. PASS, or REFUSE: EPERM. */
SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	return call_ipv4(ctx, OP_SENDTO, LAYER_SENDMSG4);
}

SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx)
{
	return call_ipv6(ctx, OP_SENDTO, LAYER_SENDMSG6);
}

/*
 * The DNS server that the agent meant, put back into what it is told. Always PASS.
 */

static __always_inline int restore_ipv4(struct bpf_sock_addr *ctx)
{
	struct sock_state *s;

	if (!dns_port || ctx->user_port != bpf_htons(dns_port) || ctx->user_ip4 != bpf_htonl(0x7f000001))
		return PASS;
	s = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	if (!s || s->asked.family != 4)
		return PASS;
	ctx->user_ip4 = s->asked.addr[0];
	ctx->user_port = s->asked.port;
	return PASS;
}

static __always_inline int restore_ipv6(struct bpf_sock_addr *ctx)
{
	__u32 a = ctx->user_ip6[0], b = ctx->user_ip6[1], c = ctx->user_ip6[2], d = ctx->user_ip6[3];
	struct sock_state *s;

	if (!dns_port || ctx->user_port != bpf_htons(dns_port) || a || b)
		return PASS;
	s = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	if (!s)
		return PASS;
	if (c == bpf_htonl(0xffff) && d == bpf_htonl(0x7f000001) && s->asked.family == 4) {
		ctx->user_ip6[3] = s->asked.addr[0];
		ctx->user_port = s->asked.port;
	} else if (!c && d == bpf_htonl(1) && s->asked.family == 6) {
		ctx->user_ip6[0] = s->asked.addr[0];
		ctx->user_ip6[1] = s->asked.addr[1];
		ctx->user_ip6[2] = s->asked.addr[2];
		ctx->user_ip6[3] = s->asked.addr[3];
		ctx->user_port = s->asked.port;
	}
	return PASS;
}

SEC("cgroup/recvmsg4")
int on_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore_ipv4(ctx);
}

SEC("cgroup/recvmsg6")
int on_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore_ipv6(ctx);
}

SEC("cgroup/getpeername4")
int on_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore_ipv4(ctx);
}

SEC("cgroup/getpeername6")
int on_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore_ipv6(ctx);
}

/*
 * Local addresses
 */

/* Port 0 is free: nothing can come in on it (see on_ingress). raypherd's own ports are never an agent's. */
static __noinline int answer_bind(struct call *c)
{
	__u64 id = 0, now = bpf_ktime_get_boot_ns();
	struct question q = {};
	struct agent a;

	if (!current_agent(&id))
		return ANSWER_PASS;
	if (!find_agent(&id, &a))
		return refuse_call(c, id, REASON_UNKNOWN_AGENT, NULL, NULL);
	if (now >= a.deadline)
		return refuse_call(c, id, REASON_EXPIRED, NULL, NULL);
	if (!c->flow.port)
		return ANSWER_PASS;
	q.flow = c->flow;
	q.slot = a.slot;
	q.class = CLASS_LISTEN;
	if (!is_own_port(bpf_ntohs(c->flow.port), IPPROTO_TCP, 0)) {
		if (granted(&q))
			return ANSWER_PASS;
		q.class = CLASS_BIND;
		if (granted(&q))
			return ANSWER_PASS;
	}
	return refuse_call(c, id, REASON_NOT_GRANTED, &a, NULL);
}

/* bind(2). PASS, or REFUSE: EPERM, also where on_deny is silence: there is nobody to be silent to. */
SEC("cgroup/bind4")
int on_bind4(struct bpf_sock_addr *ctx)
{
	struct call c = { .operation = OP_BIND, .layer = LAYER_BIND4 };

	flow_of_ipv4(ctx, &c.flow);
	return answer_bind(&c) == ANSWER_REFUSE ? REFUSE : PASS;
}

SEC("cgroup/bind6")
int on_bind6(struct bpf_sock_addr *ctx)
{
	struct call c = { .operation = OP_BIND, .layer = LAYER_BIND6 };

	flow_of_ipv6(ctx, &c.flow);
	return answer_bind(&c) == ANSWER_REFUSE ? REFUSE : PASS;
}
