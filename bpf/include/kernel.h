/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The few kernel structures that the programs read beyond the stable interface of <linux/bpf.h>. Only the fields that are
 * used stand here; preserve_access_index makes the loader put in their real offsets from the running kernel's BTF (CO-RE),
 * so this is no copy of a layout.
 */
#ifndef RAYPHER_KERNEL_H
#define RAYPHER_KERNEL_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/filter.h: what is behind struct bpf_sock_addr */
struct bpf_sock_addr_kern {
	struct sockaddr *uaddr;
	__u32 uaddrlen; /* since 6.7, like the unix socket hooks that need it */
};

/* include/linux/kernfs.h, cgroup-defs.h, include/net/sock.h: from a socket to the ids of its cgroup and those above it */
struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
	int level;
	struct cgroup *ancestors[];
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_cgroup_data sk_cgrp_data;
};

#pragma clang attribute pop

/* Numbers of the interface that are not in <linux/bpf.h>. */
#define AF_INET 2		/* include/linux/socket.h */
#define AF_INET6 10
#define SOCK_STREAM 1		/* include/linux/net.h */
#define SOCK_DGRAM 2
#define EPERM 1			/* include/uapi/asm-generic/errno-base.h */
#define EPROTONOSUPPORT 93	/* include/uapi/asm-generic/errno.h */
#define ETH_P_IP 0x0800		/* include/uapi/linux/if_ether.h */
#define ETH_P_IPV6 0x86DD

#endif
