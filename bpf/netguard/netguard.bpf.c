// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The network guard: programs on the cgroup above all agents. The hooks of system calls give a program its errno and know
 * who calls; the packet hooks are the floor that holds whichever way a packet was made. State is in state.h.
 *
 * Kernel 6.1 or newer; the hooks of unix sockets need 6.7 and are left out where they are missing.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "kernel.h"
#include "state.h"
#include "event.h"
#include "decide.h"
#include "flows.h"
#include "packet.h"
#include "tls.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Answers of the hooks. */
enum { REFUSE = 0, PASS = 1 };
/* cgroup_skb/egress may also tell the sender of a datagram nothing (NET_XMIT_CN, include/linux/bpf-cgroup.h). */
enum { DROP_SILENTLY = 2 };

#include "calls.bpf.h"
#include "sockets.bpf.h"
#include "packets.bpf.h"
#include "unix.bpf.h"

/*
 * Not attached: run once at loading. The ids of the caller's cgroup and those above it, by depth, tell how deep the mounted
 * hierarchy begins (in a cgroup namespace it does not begin at the root).
 */
#define MAX_DEPTH 32
__u64 ancestors[MAX_DEPTH];

SEC("raw_tp/sys_enter")
int list_ancestors(void *ctx)
{
	int i;

	for (i = 0; i < MAX_DEPTH; i++)
		ancestors[i] = bpf_get_current_ancestor_cgroup_id(i);
	return 0;
}
