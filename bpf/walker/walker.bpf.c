// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The walk of automaton.h by itself, for tests and measurements: hooks of the kernel that use it load in few places, programs of
 * traffic control load everywhere. Nothing attaches it: BPF_PROG_TEST_RUN runs it, with any packet. It reads the path from the
 * map question and leaves what it means in the map answer.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "automaton.h"

struct asked {
	__u32 length;
	__u32 access;
	char path[AUTOMATON_PATH_MAX];
};

struct said {
	__u32 outcome;
	__u32 verdict;
	__s32 below;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct asked);
} question SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct said);
} answer SEC(".maps");

/* As a guard holds it: the cells of each agent are a map in a map. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct cell));
	});
} tables SEC(".maps");

SEC("tc")
int walk(struct __sk_buff *skb)
{
	__u32 zero = 0, state;
	struct asked *asked = bpf_map_lookup_elem(&question, &zero);
	struct said *said = bpf_map_lookup_elem(&answer, &zero);
	void *cells = bpf_map_lookup_elem(&tables, &zero);

	if (!asked || !said || !cells)
		return -1;
	state = automaton_walk(cells, asked->path, asked->length);
	said->outcome = automaton_outcome(cells, state);
	said->verdict = file_verdict(said->outcome, asked->access);
	said->below = automaton_below(cells, state);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
