/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Unix sockets with a name. An agent's own calls are refused; a granted socket is connected by the warden, which stands
 * outside of the agents and therefore passes. Socket pairs and inherited sockets have no name and do not come here.
 */

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

static __always_inline int answer_unix(struct bpf_sock_addr *ctx, enum operation operation, enum layer layer)
{
	__u64 id = 0, now = bpf_ktime_get_boot_ns();
	struct bpf_sock_addr_kern *kern;
	struct refusal r = {};
	union {
		char bytes[128]; /* PATH_BYTES, to a bound that a mask can prove */
		__u32 words[32];
	} path = {};
	struct agent a;
	__u32 length = 0;
	int i;

	if (!current_agent(&id))
		return PASS;
	r.what.cgroup = id;
	r.what.operation = operation;
	r.what.layer = layer;
	if (!find_agent(&id, &a))
		r.what.reason = REASON_UNKNOWN_AGENT;
	else if (now >= a.deadline)
		r.what.reason = REASON_EXPIRED;
	else
		r.what.mode = a.mode;
	r.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(r.comm, sizeof(r.comm));
	kern = bpf_cast_to_kern_ctx(ctx);
	length = kern->uaddrlen;
	length = length < 2 ? 0 : length - 2; /* sun_family */
	if (length > PATH_BYTES)
		length = PATH_BYTES;
	asm volatile("" : "+r"(length)); /* the bound above is for the verifier too */
	bpf_probe_read_kernel(path.bytes, length & 127, (void *)kern->uaddr + 2);
	r.what.path = 2166136261u; /* FNV-1a, by words */
	for (i = 0; i < PATH_BYTES / 4; i++)
		r.what.path = (r.what.path ^ path.words[i]) * 16777619u;
	r.error = r.what.mode == MODE_ENFORCE ? EPERM : 0;
	report_path(&r, path.bytes, length);
	return r.what.mode == MODE_ENFORCE ? REFUSE : PASS;
}

/* PASS, or REFUSE: EPERM. */
SEC("cgroup/connect_unix")
int on_connect_unix(struct bpf_sock_addr *ctx)
{
	return answer_unix(ctx, OP_CONNECT_UNIX, LAYER_CONNECT_UNIX);
}

SEC("cgroup/sendmsg_unix")
int on_sendmsg_unix(struct bpf_sock_addr *ctx)
{
	return answer_unix(ctx, OP_SENDTO_UNIX, LAYER_SENDMSG_UNIX);
}
