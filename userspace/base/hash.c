/* SPDX-License-Identifier: MIT */
#define XXH_INLINE_ALL
#include "l7mp/hash.h"

#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <xxhash.h>

#include "hash_private.h"

/*
 * All of XXH3's secret is random, which is harder to guess than a 64-bit seed. It is written once,
 * before main, and read-only afterwards.
 */
static uint8_t secret[XXH3_SECRET_SIZE_MIN + 56];

__attribute__((constructor(101))) static void secret_init(void)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): getauxval returns the pointer as a number */
	const void *fallback = (const void *)getauxval(AT_RANDOM);
	ssize_t n;

	/* getrandom(2) returns up to 256 bytes completely or not at all (EINTR). */
	do {
		n = getrandom(secret, sizeof(secret), 0);
	} while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(secret) || !fallback)
		return;
	/*
	 * A seccomp filter may refuse the call: expand the 16 random bytes that execve(2) provides.
	 */
	for (size_t i = 0; i < sizeof(secret) / 8; i++) {
		uint64_t word = XXH3_64bits_withSeed(fallback, 16, i);

		memcpy(secret + 8 * i, &word, 8);
	}
}

uint64_t l7mp_hash(const void *data, size_t len)
{
	return XXH3_64bits_withSecret(data, len, secret, sizeof(secret));
}

void l7mp_hash128(const void *data, size_t len, uint8_t out[static 16])
{
	XXH128_hash_t h = XXH3_128bits_withSecret(data, len, secret, sizeof(secret));

	memcpy(out, &h.low64, 8);
	memcpy(out + 8, &h.high64, 8);
}

uint64_t l7mp_hash_stable(const void *data, size_t len, uint64_t seed)
{
	return XXH3_64bits_withSeed(data, len, seed);
}
