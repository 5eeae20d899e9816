/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading the server name of a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3) that lies whole in one packet
 * before it is cut into segments. Everything else is no hello: another first message, SSLv2, a hello in several records or
 * several packets, two names, none. The name is copied in lower case, zeros behind it, so that it is a key.
 *
 * Compiles outside the kernel too: tls_load and tls_loop are then the harness's (bpf/fuzz).
 */
#ifndef RAYPHER_NETGUARD_TLS_H
#define RAYPHER_NETGUARD_TLS_H

#define TLS_NAME_BYTES 256	/* a DNS name is at most 253 (RFC 1035 section 2.3.4) */
#define TLS_NAME_MAX 253
#define TLS_MAX_EXTENSIONS 64	/* browsers send some twenty */
#define TLS_MAX_RECORD 16384	/* RFC 8446 section 5.1 */

#ifndef tls_load
#define tls_load(packet, offset, to, length) bpf_skb_load_bytes(packet, offset, to, length)
#define tls_loop(n, callback, context) bpf_loop(n, callback, context, 0)
typedef struct __sk_buff tls_packet;
#endif

enum tls_hello { TLS_NO_HELLO = 0, TLS_SPLIT, TLS_NO_NAME, TLS_NAME };

struct tls_reader {
	tls_packet *packet;
	char *name;		/* TLS_NAME_BYTES, zeros */
	__u32 at;		/* of the next extension */
	__u32 end;		/* of the extensions */
	__u32 name_at;
	__u32 name_length;
	__u8 names;
	__u8 bad;
};

static __always_inline __u32 tls_u16(const __u8 *b) { return (__u32)b[0] << 8 | b[1]; }

/* One extension: type, length, content. A server name's content is one list with one host name. */
static long tls_extension(__u32 index, void *context)
{
	struct tls_reader *r = context;
	__u8 head[4], list[5];
	__u32 length, inner;

	(void)index;
	if (r->at == r->end)
		return 1;
	r->bad = 1; /* unless it turns out well */
	if (r->end - r->at < sizeof(head) || tls_load(r->packet, r->at, head, sizeof(head)))
		return 1;
	length = tls_u16(head + 2);
	r->at += sizeof(head);
	if (length > r->end - r->at)
		return 1;
	if (!tls_u16(head)) { /* server_name */
		if (length < sizeof(list) || tls_load(r->packet, r->at, list, sizeof(list)))
			return 1;
		inner = tls_u16(list + 3);
		if (tls_u16(list) != length - 2 || list[2] || inner != length - sizeof(list))
			return 1;
		if (!inner || inner > TLS_NAME_MAX || r->names++)
			return 1;
		r->name_at = r->at + sizeof(list);
		r->name_length = inner;
	}
	r->at += length;
	r->bad = 0;
	return 0;
}

/* In the name, one byte: lower case. Zero bytes end no name early, so they are refused. */
static long tls_lower(__u32 index, void *context)
{
	struct tls_reader *r = context;
	char *c;

	if (index >= r->name_length || index >= TLS_NAME_BYTES - 1)
		return 1;
	c = &r->name[index];
	if (*c >= 'A' && *c <= 'Z')
		*c += 'a' - 'A';
	if (!*c)
		r->bad = 1;
	return 0;
}

/*
 * Reads what begins at offset of a packet of size bytes. name: TLS_NAME_BYTES zeros; filled for TLS_NAME alone. TLS_SPLIT: what is
 * there begins as a hello does and goes on in another packet.
 */
static __always_inline enum tls_hello tls_read(tls_packet *packet, __u32 offset, __u32 size, char *name)
{
	struct tls_reader r = { .packet = packet, .name = name };
	__u8 head[9], id, two[2];
	__u32 length;

	if (offset > size || size - offset < sizeof(head)) {
		__u8 first;

		if (offset >= size || tls_load(packet, offset, &first, 1))
			return TLS_NO_HELLO;
		return first == 22 ? TLS_SPLIT : TLS_NO_HELLO;
	}
	if (tls_load(packet, offset, head, sizeof(head)))
		return TLS_NO_HELLO;
	/* handshake, version 3.x; client_hello */
	if (head[0] != 22 || head[1] != 3 || head[5] != 1)
		return TLS_NO_HELLO;
	length = tls_u16(head + 3);
	if (length < 4 || length > TLS_MAX_RECORD || head[6])
		return TLS_NO_HELLO;
	if (tls_u16(head + 7) != length - 4) /* several records, or several messages in one */
		return TLS_SPLIT;
	if (length > size - offset - 5)
		return TLS_SPLIT;
	r.end = offset + 5 + length;
	r.at = offset + 9 + 2 + 32; /* version, random */
	if (r.at + 1 > r.end || tls_load(packet, r.at, &id, 1))
		return TLS_NO_HELLO;
	r.at += 1 + id;
	if (r.at + 2 > r.end || tls_load(packet, r.at, two, 2))
		return TLS_NO_HELLO;
	r.at += 2 + tls_u16(two); /* cipher suites */
	if (r.at + 1 > r.end || tls_load(packet, r.at, &id, 1))
		return TLS_NO_HELLO;
	r.at += 1 + id; /* compression methods */
	if (r.at == r.end)
		return TLS_NO_NAME;
	if (r.at + 2 > r.end || tls_load(packet, r.at, two, 2))
		return TLS_NO_HELLO;
	r.at += 2;
	if (r.at + tls_u16(two) != r.end)
		return TLS_NO_HELLO;
	tls_loop(TLS_MAX_EXTENSIONS, tls_extension, &r);
	if (r.bad || r.at != r.end)
		return TLS_NO_HELLO;
	if (!r.names)
		return TLS_NO_NAME;
	length = r.name_length - 1;
	if (length >= TLS_NAME_MAX)
		return TLS_NO_HELLO;
#ifdef __bpf__
	asm volatile("" : "+r"(length)); /* what follows is the verifier's: that of Linux 6.1 does not see that none is zero */
#endif
	length = (length & (TLS_NAME_BYTES - 1)) + 1;
	if (tls_load(packet, r.name_at, name, length))
		return TLS_NO_HELLO;
	tls_loop(TLS_NAME_MAX, tls_lower, &r);
	return r.bad ? TLS_NO_HELLO : TLS_NAME;
}

#endif
