/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reporting. The first of equal events goes to the ring buffer at once; those within the same second are counted in `folds`,
 * which raypherd sweeps. What goes beyond that is counted per agent. Nothing refused is ever neither reported nor counted.
 */
#ifndef RAYPHER_NETGUARD_EVENT_H
#define RAYPHER_NETGUARD_EVENT_H

#define FOLD_NS 1000000000ULL
#define EVENTS_PER_SECOND 256	/* different ones, of one agent */

static __always_inline void count(enum statistic statistic, __u64 n)
{
	__u64 *v = bpf_map_lookup_elem(&statistics, &statistic);

	if (v)
		__sync_fetch_and_add(v, n);
}

/* One of the agent's single events of this second, or false when they are used up. Races only blur the limit. */
static __always_inline bool within_rate(struct counters *c, __u64 now)
{
	if (now - c->window >= FOLD_NS) {
		c->window = now;
		c->recent = 0;
	}
	if (c->recent >= EVENTS_PER_SECOND)
		return false;
	__sync_fetch_and_add(&c->recent, 1);
	return true;
}

struct refusal {
	struct fold_key what;
	__u32 pid;
	__s32 error;
	char comm[16];
};

/* Hands one event to the ring buffer; false when it is full. path may be NULL. */
static __always_inline bool hand_over(struct refusal *r, const char *path, __u32 path_length, __u64 now, __u64 n)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return false;
	e->what = r->what;
	e->time = now;
	e->count = n;
	e->pid = r->pid;
	e->error = r->error;
	__builtin_memcpy(e->comm, r->comm, sizeof(e->comm));
	e->path_length = path_length;
	if (path)
		__builtin_memcpy(e->path, path, PATH_BYTES);
	else
		__builtin_memset(e->path, 0, PATH_BYTES);
	bpf_ringbuf_submit(e, 0);
	count(STAT_EVENTS, 1);
	return true;
}

static __always_inline void report_path(struct refusal *r, const char *path, __u32 path_length)
{
	struct fold_key key = r->what; /* before 6.3, keys must lie on the stack */
	__u64 now = bpf_ktime_get_boot_ns();
	struct counters *c = bpf_map_lookup_elem(&counts, &key.cgroup);
	struct fold *f = bpf_map_lookup_elem(&folds, &key);
	struct fold fresh = {};

	if (c) {
		if (r->what.mode == MODE_ENFORCE)
			__sync_fetch_and_add(&c->refused, 1);
		else
			__sync_fetch_and_add(&c->would_block, 1);
	}
	if (r->what.mode == MODE_PERMISSIVE)
		return;
	if (f) {
		__u64 before;

		if (now - f->start < FOLD_NS) {
			__sync_fetch_and_add(&f->folded, 1);
			count(STAT_FOLDED, 1);
			return;
		}
		f->start = now;
		before = __sync_lock_test_and_set(&f->folded, 0);
		if (hand_over(r, path, path_length, now, before + 1)) {
			count(STAT_CARRIED, before);
		} else {
			__sync_fetch_and_add(&f->folded, before + 1);
			count(STAT_FOLDED, 1);
		}
		return;
	}
	fresh.start = now;
	fresh.pid = r->pid;
	fresh.error = r->error;
	__builtin_memcpy(fresh.comm, r->comm, sizeof(fresh.comm));
	if (c && !within_rate(c, now)) {
		__sync_fetch_and_add(&c->suppressed, 1);
		return;
	}
	if (!hand_over(r, path, path_length, now, 1)) {
		/* The ring buffer is full: raypherd finds this one when it sweeps. */
		fresh.folded = 1;
		count(STAT_FOLDED, 1);
	}
	if (bpf_map_update_elem(&folds, &key, &fresh, BPF_NOEXIST) && fresh.folded) {
		count(STAT_CARRIED, 1);
		count(STAT_LOST, 1);
	}
}

/* Global, so that it is verified once for all programs. */
__noinline int report(struct refusal *r)
{
	if (!r)
		return 0;
	report_path(r, NULL, 0);
	return 0;
}

#endif
