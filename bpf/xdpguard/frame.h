/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading a frame at an interface, where it begins with its Ethernet header and a datagram's pieces come one by one. A tag of a
 * VLAN is an unknown type here: nothing of an agent has one.
 */
#ifndef RAYPHER_XDPGUARD_FRAME_H
#define RAYPHER_XDPGUARD_FRAME_H

#define ETH_BYTES 14
#define ETH_P_ARP 0x0806	/* include/uapi/linux/if_ether.h */
#define IP_MF 0x2000		/* RFC 791 section 3.1 */
#define IP_OFFSET 0x1fff
#define IPPROTO_ICMP6 58	/* IANA protocol numbers; not in <linux/in.h> */

struct ethernet {
	__u8 to[6], from[6];
	__be16 type;
};

enum piece { PIECE_WHOLE = 0, PIECE_FIRST, PIECE_LATER };

struct frame {
	struct flow source;
	struct flow destination;
	__u32 transport;	/* offset of what follows the network header */
	__u32 id;		/* of a datagram in pieces */
	enum piece piece;
	bool opens;		/* TCP: SYN without ACK */
	__u8 icmp;		/* type */
};

static __always_inline void protocol_of(struct frame *f, __u8 proto)
{
	f->source.proto = f->destination.proto = proto;
}

/* RFC 791, without options, because a source route would lead elsewhere. */
static __always_inline bool frame_ipv4(struct xdp_md *ctx, struct frame *f)
{
	struct iphdr ip;
	__u16 offset;

	if (bpf_xdp_load_bytes(ctx, ETH_BYTES, &ip, sizeof(ip)))
		return false;
	f->source.family = f->destination.family = 4;
	f->source.addr[0] = ip.saddr;
	f->destination.addr[0] = ip.daddr;
	protocol_of(f, ip.protocol);
	offset = bpf_ntohs(ip.frag_off);
	f->id = bpf_ntohs(ip.id);
	f->piece = offset & IP_OFFSET ? PIECE_LATER : offset & IP_MF ? PIECE_FIRST : PIECE_WHOLE;
	f->transport = ETH_BYTES + sizeof(ip);
	return ip.version == 4 && ip.ihl == 5;
}

/* A fragment's header (RFC 8200 section 4.5), which may stand once. */
static __always_inline bool piece_ipv6(struct frame *f, const __u8 *header)
{
	__u16 offset = (__u16)header[2] << 8 | header[3];

	if (f->piece != PIECE_WHOLE)
		return false;
	__builtin_memcpy(&f->id, header + 4, sizeof(f->id));
	if (offset & 0xfff8)
		f->piece = PIECE_LATER;
	else if (offset & 1)
		f->piece = PIECE_FIRST;
	return true;
}

/* RFC 8200: options and the header of a fragment are stepped over; routing, authentication and the unknown are read no further. */
static __always_inline bool frame_ipv6(struct xdp_md *ctx, struct frame *f)
{
	struct ipv6hdr ip;
	__u32 offset = ETH_BYTES + sizeof(ip);
	__u8 next;
	int i;

	if (bpf_xdp_load_bytes(ctx, ETH_BYTES, &ip, sizeof(ip)))
		return false;
	f->source.family = f->destination.family = 6;
	__builtin_memcpy(f->source.addr, &ip.saddr, 16);
	__builtin_memcpy(f->destination.addr, &ip.daddr, 16);
	next = ip.nexthdr;
	protocol_of(f, next);
	if (ip.version != 6 || is_mapped(ip.daddr.in6_u.u6_addr32))
		return false;
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 header[8];

		if (next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_ICMP6 || f->piece == PIECE_LATER) {
			protocol_of(f, next);
			f->transport = offset;
			return true;
		}
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			return false;
		if (bpf_xdp_load_bytes(ctx, offset, header, sizeof(header)))
			return false;
		if (next == IPPROTO_FRAGMENT && !piece_ipv6(f, header))
			return false;
		offset += 8;
		if (next != IPPROTO_FRAGMENT)
			offset += 8 * (__u32)header[1];
		next = header[0];
	}
	return false;
}

/* The ports, or an ICMP message's type, of a frame whose network header was read and which has a transport header. */
static __always_inline bool frame_transport(struct xdp_md *ctx, struct frame *f)
{
	__u8 proto = f->source.proto, flags;
	__be16 ports[2];

	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMP6) {
		/* Each family has its own, and neither is cut: what it answers to has to be seen whole. */
		if (f->piece != PIECE_WHOLE || (proto == IPPROTO_ICMP) != (f->source.family == 4))
			return false;
		return !bpf_xdp_load_bytes(ctx, f->transport, &f->icmp, sizeof(f->icmp));
	}
	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP)
		return false;
	if (bpf_xdp_load_bytes(ctx, f->transport, ports, sizeof(ports)))
		return false;
	f->source.port = ports[0];
	f->destination.port = ports[1];
	if (proto == IPPROTO_UDP)
		return true;
	if (bpf_xdp_load_bytes(ctx, f->transport + TCP_FLAGS, &flags, sizeof(flags)))
		return false;
	f->opens = (flags & TCP_SYN_ACK) == TCP_SYN;
	return true;
}

/* The common case without a call into the kernel for each field: headers in one piece, no extensions, no fragments. */
static __always_inline bool frame_plain(struct xdp_md *ctx, struct frame *f)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	struct iphdr *ip = data + ETH_BYTES;
	struct {
		__be16 source, destination;
	} *ports = data + ETH_BYTES + sizeof(*ip);
	__u8 *flags = (void *)ports + TCP_FLAGS;

	if ((void *)(ports + 1) > end || eth->type != bpf_htons(ETH_P_IP) || ip->version != 4 || ip->ihl != 5 ||
	    (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)))
		return false;
	f->source.family = f->destination.family = 4;
	f->source.addr[0] = ip->saddr;
	f->destination.addr[0] = ip->daddr;
	protocol_of(f, ip->protocol);
	f->source.port = ports->source;
	f->destination.port = ports->destination;
	f->transport = ETH_BYTES + sizeof(*ip);
	if (ip->protocol == IPPROTO_UDP)
		return true;
	if (ip->protocol != IPPROTO_TCP || (void *)(flags + 1) > end)
		return false;
	f->opens = (*flags & TCP_SYN_ACK) == TCP_SYN;
	return true;
}

/*
 * False: nothing that can be judged. Addresses are filled in as far as they were read. A function that the verifier looks at once, by
 * itself (not static): what follows is then a fraction of the work for it.
 */
__noinline int read_frame(struct xdp_md *ctx, struct frame *f, __u32 type)
{
	bool network;

	if (!f)
		return false;
	if (frame_plain(ctx, f))
		return true;
	f->source.port = f->destination.port = 0;
	if (type == bpf_htons(ETH_P_IP))
		network = frame_ipv4(ctx, f);
	else if (type == bpf_htons(ETH_P_IPV6))
		network = frame_ipv6(ctx, f);
	else
		return false;
	return network && (f->piece == PIECE_LATER || frame_transport(ctx, f));
}

#endif
