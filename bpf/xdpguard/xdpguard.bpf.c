// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The guard at interfaces: one program for the host ends of isolated agents' wires, one for an interface of the host. They judge
 * by the agents, rules and names of the network guard, whose headers and maps they share. Kernel 6.1 or newer.
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
#include "../netguard/state.h"
#include "../netguard/event.h"
#include "../netguard/decide.h"
#include "../netguard/packet.h"
#include "state.h"
#include "frame.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#include "wire.bpf.h"
#include "guard.bpf.h"
