// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The file guard: LSM programs that hold what agents do to files, programs, sockets with a path, other processes and the
 * kernel. They only ever take away: what they let pass, the kernel's own rules and other LSMs still decide.
 *
 * Linux 6.1 or newer with BPF LSM; hooks that came later are left out where they are missing.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/magic.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "automaton.h"
#include "vfs.h"

#define EPERM 1 /* include/uapi/asm-generic/errno-base.h */
#define EACCES 13
#define EXDEV 18

#include "state.h"
#include "event.h"
#include "place.h"
#include "judge.h"
#include "governed.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#include "files.bpf.h"
#include "paths.bpf.h"
#include "programs.bpf.h"
#include "tasks.bpf.h"
#include "sockets.bpf.h"

/* Not attached: raypherd runs it, so that verdicts are decided again. */
SEC("syscall")
int forget_verdicts(void *ctx)
{
	__sync_fetch_and_add(&verdict_generation, 1);
	return 0;
}

/*
 * Not attached: run once at loading. The ids of the caller's cgroup and those above it, by depth, tell how deep the mounted
 * hierarchy begins (in a cgroup namespace it does not begin at the root).
 */
__u64 ancestors[MAX_DEPTH];

SEC("raw_tp/sys_enter")
int list_ancestors(void *ctx)
{
	int i;

	for (i = 0; i < MAX_DEPTH; i++)
		ancestors[i] = bpf_get_current_ancestor_cgroup_id(i);
	return 0;
}
