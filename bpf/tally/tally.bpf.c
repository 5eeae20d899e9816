// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * How often agents make each system call. It decides nothing and is attached only where raypherd is told to count (--count-calls): the
 * tracepoint costs every process of the host something for each of its calls. Kernel 6.1 or newer.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CALLS 1024	/* numbers of system calls; both architectures have fewer than 500. The last one: any other */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CALLS);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

/* Set once, before loading: as in netguard/state.h. */
volatile const __u32 agent_level = 0;
volatile const __u64 parent_id = 0;

/*
 * Hook: a system call begins; args[1] is its number (include/trace/events/syscalls.h). Not atomic: the kernel runs programs of a
 * tracepoint without being interrupted by another task.
 */
SEC("raw_tp/sys_enter")
int on_call(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 number = ctx->args[1] < CALLS ? ctx->args[1] : CALLS - 1;
	__u64 *count;

	if (bpf_get_current_ancestor_cgroup_id(agent_level - 1) != parent_id)
		return 0;
	count = bpf_map_lookup_elem(&calls, &number);
	if (count)
		++*count;
	return 0;
}
