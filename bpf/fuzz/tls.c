// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * libFuzzer's harness of netguard/tls.h: the same source that the kernel runs, over memory whose every byte beyond the packet
 * is watched. Each input is read as a packet; then it is made into a hello whose name must be found.
 */
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <linux/types.h>

typedef struct {
	const uint8_t *bytes;
	uint32_t size;
} tls_packet;

static int load(const tls_packet *p, uint32_t offset, void *to, uint32_t length)
{
	/* As bpf_skb_load_bytes: all of it or nothing. */
	if (offset > p->size || length > p->size - offset)
		return -14;
	memcpy(to, p->bytes + offset, length);
	return 0;
}

static void loop(uint32_t n, long (*callback)(__u32, void *), void *context)
{
	for (uint32_t i = 0; i < n; i++)
		if (callback(i, context))
			return;
}

#define tls_load(packet, offset, to, length) load(packet, offset, to, length)
#define tls_loop(n, callback, context) loop(n, callback, context)
#include "../netguard/tls.h"

static enum tls_hello read_copy(const uint8_t *bytes, size_t size, uint32_t offset, char *name)
{
	uint8_t *own = malloc(size ? size : 1);
	tls_packet p = { own, size };
	enum tls_hello h;

	memcpy(own, bytes, size);
	memset(name, 0, TLS_NAME_BYTES);
	h = tls_read(&p, offset, size, name);
	free(own);
	return h;
}

static void check_name(enum tls_hello h, const char *name)
{
	size_t length = strnlen(name, TLS_NAME_BYTES);

	if (h != TLS_NAME)
		return;
	assert(length > 0 && length <= TLS_NAME_MAX);
	for (size_t i = 0; i < TLS_NAME_BYTES; i++) {
		assert(!(name[i] >= 'A' && name[i] <= 'Z'));
		assert((i < length) == (name[i] != 0));
	}
}

/* A hello with one server name among extensions that the input chooses; its name must come back, in lower case. */
static void round_trip(const uint8_t *in, size_t size)
{
	uint8_t b[8192], *at = b + 9, *extensions, *message = b + 5;
	char name[TLS_NAME_BYTES], want[TLS_NAME_BYTES] = {};
	size_t length, place, n;

	if (size < 4)
		return;
	length = 1 + in[0] % TLS_NAME_MAX;
	place = in[1] % 20;
	memset(b, 0, sizeof(b));
	b[0] = 22, b[1] = 3, b[2] = in[2], message[0] = 1;
	at += 34;
	*at = in[3] % 33, at += 1 + *at;
	at[1] = 2, at += 4;		/* one suite */
	at[0] = 1, at += 2;		/* one compression method */
	extensions = at, at += 2;
	for (size_t i = 0; i < 20; i++) {
		size_t other = 4 + i < size ? in[4 + i] : 0;

		if (i == place) {
			n = length + 5;
			at[2] = n >> 8, at[3] = n, at += 4;
			at[0] = (n - 2) >> 8, at[1] = n - 2, at[3] = length >> 8, at[4] = length, at += 5;
			for (size_t j = 0; j < length; j++) {
				uint8_t c = j < size ? in[j] | 1 : 'X';

				at[j] = c;
				want[j] = c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c;
			}
			at += length;
		}
		at[0] = 0x40, at[1] = i, at[3] = other, at += 4 + other;
	}
	n = at - extensions - 2, extensions[0] = n >> 8, extensions[1] = n;
	n = at - message - 4, message[2] = n >> 8, message[3] = n;
	n += 4, b[3] = n >> 8, b[4] = n;
	assert(read_copy(b, at - b, 0, name) == TLS_NAME);
	assert(!memcmp(name, want, TLS_NAME_BYTES));
	/* Each shorter piece of it is a piece, and never a name. */
	assert(read_copy(b, (size_t)in[2] % (at - b) + 1 == (size_t)(at - b) ? 1 : (size_t)in[2] % (at - b) + 1, 0, name) == TLS_SPLIT);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	char name[TLS_NAME_BYTES];

	check_name(read_copy(in, size, 0, name), name);
	if (size)
		check_name(read_copy(in, size, in[0] % 64, name), name);
	round_trip(in, size);
	return 0;
}
