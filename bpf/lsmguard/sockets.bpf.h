/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Unix sockets, by the one that is reached: an agent's own are its own matter, others need a rule for their path. Names without
 * a path (abstract) stay inside the agent. Each program returns 0 or a negative errno.
 */

static __always_inline int on_peer(struct query *q, struct sock *peer)
{
	struct unix_sock *u = (void *)peer;

	if (inside(BPF_CORE_READ(peer, sk_cgrp_data.cgroup), q->cgroup))
		return 0;
	q->access = ACCESS_READ; /* the list that table of the rules uses */
	q->flags = QUERY_SOCKET;
	q->dentry = (__u64)BPF_CORE_READ(u, path.dentry);
	q->mount = (__u64)BPF_CORE_READ(u, path.mnt);
	if (!q->dentry) {
		q->reason = REASON_FOREIGN;
		q->error = EPERM;
	}
	return decide(q);
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(on_unix_connect, struct sock *sock, struct sock *peer)
{
	struct query q = { .hook = HOOK_UNIX_CONNECT, .operation = OP_CONNECT };

	return governed(&q.cgroup) ? on_peer(&q, peer) : 0;
}

SEC("lsm/unix_may_send")
int BPF_PROG(on_unix_send, struct socket *socket, struct socket *peer)
{
	struct query q = { .hook = HOOK_UNIX_SEND, .operation = OP_SENDTO };

	return governed(&q.cgroup) ? on_peer(&q, BPF_CORE_READ(peer, sk)) : 0;
}
