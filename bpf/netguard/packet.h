/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading a packet at the cgroup hooks, where data begins with the network header. They see a packet before it is cut into
 * fragments (ip_finish_output) and after it was put together again (sk_filter), so a fragment here was made by hand.
 */
#ifndef RAYPHER_NETGUARD_PACKET_H
#define RAYPHER_NETGUARD_PACKET_H

#define MAX_EXTENSIONS 6

struct packet {
	struct flow source;
	struct flow destination;
	__u32 transport;	/* offset of its TCP or UDP header */
	bool opens;		/* TCP: SYN without ACK */
	__u32 rule;		/* by which it was decided */
};

#define TCP_FLAGS 13		/* RFC 9293 section 3.1 */
#define TCP_SYN 0x02
#define TCP_SYN_ACK 0x12
#define TCP_URG 0x20

/* ::ffff:0:0/96 is a form of IPv4 for programs and has no place in a packet (RFC 4291 section 2.5.5.2). */
static __always_inline bool is_mapped(const __u32 *addr)
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

/* IPv4 (RFC 791): no options, because a source route would lead elsewhere; no later fragment. Returns the transport's offset. */
static __always_inline int read_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return -1;
	p->source.family = p->destination.family = 4;
	p->source.addr[0] = ip.saddr;
	p->destination.addr[0] = ip.daddr;
	p->destination.proto = p->source.proto = ip.protocol;
	if (ip.version != 4 || ip.ihl != 5 || (ip.frag_off & bpf_htons(0x1fff)))
		return -1;
	return sizeof(ip);
}

/*
 * IPv6 (RFC 8200): hop-by-hop and destination options and a first fragment's header are stepped over; routing headers,
 * authentication and what is unknown are not read any further.
 */
static __always_inline int read_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	__u32 offset = sizeof(ip);
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return -1;
	p->source.family = p->destination.family = 6;
	__builtin_memcpy(p->source.addr, &ip.saddr, 16);
	__builtin_memcpy(p->destination.addr, &ip.daddr, 16);
	next = ip.nexthdr;
	p->destination.proto = p->source.proto = next;
	if (ip.version != 6 || is_mapped(ip.daddr.in6_u.u6_addr32))
		return -1;
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 header[4];

		if (next == IPPROTO_TCP || next == IPPROTO_UDP) {
			p->destination.proto = p->source.proto = next;
			return offset;
		}
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			return -1;
		if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			if (header[2] || (header[3] & 0xf8))
				return -1;
			offset += 8;
		} else {
			offset += 8 + 8 * (__u32)header[1];
		}
		next = header[0];
	}
	return -1;
}

/* The common case, where the headers lie in one piece and without extensions: no call into the kernel for each field. */
static __always_inline bool read_plain(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct {
		__be16 source, destination;
	} *ports;
	__u8 proto;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		ports = data + sizeof(*ip);
		if ((void *)(ports + 1) > end || ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(0x1fff)))
			return false;
		p->source.family = p->destination.family = 4;
		p->source.addr[0] = ip->saddr;
		p->destination.addr[0] = ip->daddr;
		proto = ip->protocol;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;

		ports = data + sizeof(*ip);
		if ((void *)(ports + 1) > end || ip->version != 6 || is_mapped(ip->daddr.in6_u.u6_addr32))
			return false;
		p->source.family = p->destination.family = 6;
		__builtin_memcpy(p->source.addr, &ip->saddr, 16);
		__builtin_memcpy(p->destination.addr, &ip->daddr, 16);
		proto = ip->nexthdr;
	} else {
		return false;
	}
	p->source.proto = p->destination.proto = proto;
	p->source.port = ports->source;
	p->destination.port = ports->destination;
	p->transport = (void *)ports - data;
	if (proto == IPPROTO_TCP) {
		__u8 *flags = (void *)ports + TCP_FLAGS;

		if ((void *)(flags + 1) > end)
			return false;
		p->opens = (*flags & TCP_SYN_ACK) == TCP_SYN;
		return true;
	}
	return proto == IPPROTO_UDP;
}

/*
 * False: the packet is none that the guard can judge. Addresses are filled in as far as they were read. A function that the verifier
 * looks at once, by itself (not static): what follows is then a third of the work for it.
 */
__noinline int read_packet(struct __sk_buff *skb, struct packet *p)
{
	__be16 ports[2];
	__u8 flags;
	int offset;

	if (!p)
		return false;
	if (read_plain(skb, p))
		return true;
	p->source.port = p->destination.port = 0; /* of another protocol, or of options: no ports */
	if (skb->protocol == bpf_htons(ETH_P_IP))
		offset = read_ipv4(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		offset = read_ipv6(skb, p);
	else
		return false;
	if (offset < 0)
		return false;
	if (p->destination.proto != IPPROTO_TCP && p->destination.proto != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return false;
	p->source.port = ports[0];
	p->destination.port = ports[1];
	p->transport = offset;
	if (p->destination.proto == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, offset + TCP_FLAGS, &flags, 1))
			return false;
		p->opens = (flags & TCP_SYN_ACK) == TCP_SYN;
	}
	return true;
}

#endif
