/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who is governed: first in each program, so that outsiders pay for no more. */
#ifndef RAYPHER_LSMGUARD_GOVERNED_H
#define RAYPHER_LSMGUARD_GOVERNED_H

#define MAX_DEPTH 32

struct attached {
	__u64 id;
	__u32 depths;	/* at which some are */
};

static long attached_step(__u32 depth, struct attached *a)
{
	__u32 depths = a->depths >> depth;
	__u64 id;

	if (!depths)
		return 1;
	if (!(depths & 1))
		return 0;
	id = bpf_get_current_ancestor_cgroup_id(depth);
	if (!id || !bpf_map_lookup_elem(&agents, &id))
		return 0;
	a->id = id;
	return 1;
}

/* A cgroup that was attached to, anywhere in the hierarchy. */
__noinline __u64 attached_cgroup(void)
{
	struct attached a = { .depths = attached_depths };

	unknown(&a.id, sizeof(a.id));
	bpf_loop(MAX_DEPTH, attached_step, &a, 0);
	return a.id;
}

/*
 * governed says whether the caller is an agent's, and which one's. An id of 0 is a process directly in the folder of all
 * agents, which no entry matches: it gets nothing.
 */
static __always_inline bool governed(__u64 *id)
{
	__u32 level = agents_level;

	if (level && bpf_get_current_ancestor_cgroup_id(level - 1) == agents_parent) {
		*id = bpf_get_current_ancestor_cgroup_id(level);
		return true;
	}
	if (!attached_depths)
		return false;
	*id = attached_cgroup();
	return *id != 0;
}

/* The same of another cgroup: whether it is that of agent id, or lies below. */
static __always_inline bool inside(struct cgroup *cgroup, __u64 id)
{
	struct agent *a = bpf_map_lookup_elem(&agents, &id);
	struct cgroup *at = NULL;
	__u32 level;

	if (!a || !cgroup)
		return false;
	level = a->level;
	if (level > MAX_DEPTH || BPF_CORE_READ(cgroup, level) < (int)level)
		return false;
	bpf_probe_read_kernel(&at, sizeof(at), (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(at));
	return at && BPF_CORE_READ(at, kn, id) == id;
}

static __always_inline bool own_task(struct task_struct *task, __u64 id)
{
	return inside(BPF_CORE_READ(task, cgroups, dfl_cgrp), id);
}

/* Refuses what has nothing to do with a file. */
static __always_inline int never(__u64 id, enum operation operation, enum hook hook, enum reason reason, __u32 detail, __u8 flags)
{
	struct query q = { .cgroup = id, .operation = operation, .hook = hook, .reason = reason, .detail = detail, .error = EPERM, .flags = flags };

	return deny(&q);
}

#endif
