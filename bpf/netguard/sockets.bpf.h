/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sockets
 */

/*
 * socket(2) of the internet families: TCP and UDP streams and datagrams. MPTCP is "not supported" rather than a violation,
 * because programs try it first and fall back. Other families never come here: the system call filter refuses them.
 * REFUSE: EPERM or EPROTONOSUPPORT.
 */
SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *ctx)
{
	struct call c = { .operation = OP_SOCKET, .layer = LAYER_SOCK_CREATE };
	__u32 type = ctx->type, protocol = ctx->protocol;
	struct agent a;
	bool known;
	__u64 id = 0;

	if ((type == SOCK_STREAM && protocol == IPPROTO_TCP) || (type == SOCK_DGRAM && protocol == IPPROTO_UDP))
		return PASS; /* what it is for is judged later */
	if (!current_agent(&id))
		return PASS;
	known = find_agent(&id, &a);
	if (protocol == IPPROTO_MPTCP && (!known || a.mode == MODE_ENFORCE)) {
		bpf_set_retval(-EPROTONOSUPPORT);
		return REFUSE;
	}
	c.flow.family = ctx->family == AF_INET6 ? 6 : 4;
	c.flow.proto = protocol;
	if (!known)
		return refuse_call(&c, id, REASON_UNKNOWN_AGENT, NULL, NULL) == ANSWER_REFUSE ? REFUSE : PASS;
	return refuse_call(&c, id, REASON_NOT_GRANTED, &a, NULL) == ANSWER_REFUSE ? REFUSE : PASS;
}

/* What comes to raypherd from the socket's address is not this agent's any more. */
static __noinline void end_peer(const struct sock_state *s)
{
	struct peer_key key = {};
	struct peer *p;

	key.netns = s->netns;
	__builtin_memcpy(key.addr, s->source.addr, sizeof(key.addr));
	key.port = s->source.port;
	key.proto = s->source.proto;
	key.family = s->source.family;
	p = bpf_map_lookup_elem(&peers, &key);
	if (p)
		p->closed = bpf_ktime_get_boot_ns();
}

/* The last close of a socket: what comes from its address from now on is not this agent's. Always PASS. */
SEC("cgroup/sock_release")
int on_release(struct bpf_sock *ctx)
{
	struct sock_state *s = bpf_sk_storage_get(&sockets, ctx, NULL, 0);

	if (s && s->source.port)
		end_peer(s);
	return PASS;
}
