/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reporting. Each refusal is counted; it is one event as long as the agent stays below its rate and the ring buffer has room,
 * and else counted as suppressed or lost. So for each agent: refused + would_block = reported + suppressed + lost, but for what
 * mode permissive only counts.
 */
#ifndef RAYPHER_LSMGUARD_EVENT_H
#define RAYPHER_LSMGUARD_EVENT_H

#define SECOND 1000000000ULL
#define EVENTS_PER_SECOND 512 /* of one agent */

/* One question of a hook. It lies on the stack of the hook, and goes to functions that are verified once. */
struct query {
	__u64 cgroup;
	__u64 dentry;		/* struct dentry; 0: the question is not about a file */
	__u64 mount;		/* struct vfsmount; 0: not known, one of the mounts of its file system */
	__u32 access;
	__u32 detail;
	__s32 error;		/* errno of a refusal, 0: EACCES */
	enum operation operation;
	enum hook hook;
	enum reason reason;	/* not 0: refused, whatever it is about */
	__u8 flags;
	__u64 deadline;		/* answers, for the cache */
	__u64 allowed;
};

#define QUERY_PARTIAL (1 << 0)	/* another hook follows in the same call: a permit for one call stays */
#define QUERY_HARMLESS (1 << 1)	/* no violation: programs try it and do without */
#define QUERY_SOCKET (1 << 2)	/* decided by the rules for unix sockets */
#define QUERY_MAP (1 << 3)	/* a mapping for execution */
#define QUERY_FORCE (1 << 4)	/* an exec: the loader is no exception */
#define QUERY_SHARED (1 << 5)	/* a mapping that others see */
#define QUERY_EXECUTED (1 << 6)	/* the kernel maps what it executes: bprm_check_security has used up a permit for one call */

/* Functions that are verified once each take a room by its number. The caller stays on its CPU meanwhile. */
static __always_inline struct room *room_of(__u32 number) { return bpf_map_lookup_elem(&rooms, &number); }

/* The number of a room that is free now, or ROOMS. */
static __always_inline __u32 take_room(void)
{
	struct room *room;
	__u32 i;

	for (i = 0; i < ROOMS; i++) {
		room = room_of(i);
		if (room && !__sync_lock_test_and_set(&room->busy, 1)) {
			room->event.length = 0;
			return i;
		}
	}
	return ROOMS;
}

static __always_inline void leave_room(__u32 number)
{
	struct room *room = room_of(number);

	if (room)
		__sync_lock_test_and_set(&room->busy, 0);
}

/* One of the agent's single events of this second. Races only blur the limit. */
static __always_inline bool within_rate(struct counters *c, __u64 now)
{
	if (now - c->window >= SECOND) {
		c->window = now;
		c->recent = 0;
	}
	if (c->recent >= EVENTS_PER_SECOND)
		return false;
	__sync_fetch_and_add(&c->recent, 1);
	return true;
}

/*
 * refuse counts and reports a refusal, whose path the room holds, and returns what the hook returns: 0 where the mode lets it
 * pass. Where the permit says so, the process ends here, before the call has had an effect.
 */
__noinline int refuse(struct query *q, __u32 number, __u32 outcome, __u32 reason)
{
	__u64 now = bpf_ktime_get_boot_ns(), ids = bpf_get_current_pid_tgid(), id;
	enum mode mode = MODE_ENFORCE;
	struct room *room = room_of(number);
	struct counters *c;
	struct agent *a;
	struct event *e;
	__u32 length;
	bool kill = false;

	if (!q || !room)
		return -EACCES;
	id = q->cgroup;
	e = &room->event;
	a = bpf_map_lookup_elem(&agents, &id);
	if (a) {
		mode = a->mode;
		kill = a->kill;
	}
	e->time = now;
	e->cgroup = id;
	e->pid = ids >> 32;
	e->thread = ids;
	e->error = mode == MODE_ENFORCE ? (q->error ?: EACCES) : 0;
	e->detail = q->detail;
	e->outcome = outcome;
	e->access = q->access;
	e->operation = q->operation;
	e->hook = q->hook;
	e->reason = reason;
	e->mode = mode;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	c = bpf_map_lookup_elem(&counts, &id);
	if (c) {
		__sync_fetch_and_add(mode == MODE_ENFORCE ? &c->refused : &c->would_block, 1);
		if (mode != MODE_PERMISSIVE && !within_rate(c, now)) {
			__sync_fetch_and_add(&c->suppressed, 1);
		} else if (mode != MODE_PERMISSIVE) {
			length = e->length;
			asm volatile("" : "+r"(length)); /* the bound below is for the verifier too */
			if (length > PATH_BYTES)
				length = PATH_BYTES;
			if (bpf_ringbuf_output(&events, e, offsetof(struct event, path) + length, 0))
				__sync_fetch_and_add(&c->lost, 1);
			else
				__sync_fetch_and_add(&c->reported, 1);
		}
	}
	if (mode != MODE_ENFORCE)
		return 0;
	if (kill && !(q->flags & QUERY_HARMLESS))
		bpf_send_signal(SIGKILL);
	return -(q->error ?: EACCES);
}

/*
 * A hook returns 0 or a negative errno, and since 6.12 the verifier wants to see that; it does not look into functions that it
 * verified before.
 */
static __always_inline int returned(int error)
{
	asm volatile("" : "+r"(error));
	if (error > 0)
		return -EACCES;
	asm volatile("" : "+r"(error));
	if (error < -4095)
		return -EACCES;
	return error;
}

__noinline int deny_query(struct query *q)
{
	__u32 number = take_room();
	int error;

	if (!q || number >= ROOMS)
		return -EPERM;
	error = refuse(q, number, 0, q->reason);
	leave_room(number);
	return error;
}

/* deny refuses what needs no look at a path. */
static __always_inline int deny(struct query *q) { return returned(deny_query(q)); }

#endif
