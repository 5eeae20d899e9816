/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The short way of most packets: their flow was decided, under rules that are in force still. It asks neither for the agent nor for its
 * rules. Where it says no, nothing is decided yet.
 *
 * A flow that depends on more than rules, or lasts, is found in its socket's state. One that a rule of the policy grants needs no state, which
 * takes longer to make than its few packets to decide: it is found among the recent ones of this CPU, by its socket's cookie.
 */
#ifndef RAYPHER_NETGUARD_FLOWS_H
#define RAYPHER_NETGUARD_FLOWS_H

/* Whose a flow is, and by which rule. */
struct standing {
	__u64 agent;
	__u64 generation;
	__u32 slot;
	__u32 rule;
};

/* Are the rules of back then in force? Anything that changes them ends their term first. */
static __always_inline bool in_force(const struct standing *st)
{
	__u32 slot = st->slot;
	struct term *t = bpf_map_lookup_elem(&terms, &slot);

	return t && t->generation == st->generation && bpf_ktime_get_boot_ns() < t->deadline;
}

static __always_inline bool read_state(const struct sock_state *s, const struct flow *remote, struct standing *st)
{
	st->agent = s->agent;
	st->generation = s->generation;
	st->slot = s->slot;
	st->rule = s->rule;
	return s->owner == s->agent && flow_equal(&s->decided, remote);
}

/*
 * Was this remote end decided for the agent whose socket it is? alone: nobody decides for this socket meanwhile. A connected stream's
 * packets and calls follow each other under the socket's own lock, and what comes in to it comes from its remote end.
 */
static __always_inline bool stands(struct sock_state *s, const struct flow *remote, bool alone, struct standing *st)
{
	bool same;

	if (alone) {
		same = read_state(s, remote, st);
	} else {
		bpf_spin_lock(&s->lock);
		same = read_state(s, remote, st);
		bpf_spin_unlock(&s->lock);
	}
	return same && in_force(st);
}

static __always_inline struct recent *recent_of(__u64 cookie)
{
	__u32 index = cookie & (RECENT_FLOWS - 1);

	return bpf_map_lookup_elem(&recents, &index);
}

/*
 * Is this a flow that a rule granted a moment ago, to the agent that the caller has yet to compare? Others may come in between, on this CPU alone: who writes makes the stamp odd, and
 * changes it in the end.
 */
static __always_inline bool is_recent(__u64 cookie, const struct flow *remote, struct standing *st)
{
	struct recent *r = recent_of(cookie);
	__u64 stamp;
	bool same;

	if (!r)
		return false;
	stamp = *(volatile __u64 *)&r->stamp;
	barrier();
	st->agent = r->agent;
	st->generation = r->generation;
	st->slot = r->slot;
	st->rule = r->rule;
	same = r->cookie == cookie && flow_equal(&r->remote, remote);
	barrier();
	return same && !(stamp & 1) && *(volatile __u64 *)&r->stamp == stamp && in_force(st);
}

/* Keeps a flow that a rule of the agent's policy grants: it stays so until the rules change. */
static __always_inline void keep_recent(__u64 cookie, const struct agent *a, const struct flow *remote, __u32 rule)
{
	struct recent *r = recent_of(cookie);
	__u64 stamp;

	if (!r || rule == RULE_LOAN || rule == RULE_OWN)
		return;
	stamp = *(volatile __u64 *)&r->stamp;
	if ((stamp & 1) || !__sync_bool_compare_and_swap(&r->stamp, stamp, stamp + 1))
		return;
	barrier();
	r->cookie = cookie;
	r->agent = a->cgroup;
	r->generation = a->generation;
	r->slot = a->slot;
	r->rule = rule;
	r->remote = *remote;
	barrier();
	*(volatile __u64 *)&r->stamp = stamp + 2;
}

#endif
