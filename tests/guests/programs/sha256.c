/* SHA-256 (FIPS 180-4) over 64 MiB: a 1 MiB block, 64 times. The result is the digest's first 8
 * bytes. */
#define _GNU_SOURCE
#include "compute.h"

#define BLOCK (1 << 20)
#define BLOCKS 64

static uint32_t rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static uint32_t k[64], initial[8];

/* The constants are the first bits of the fractional parts of the cube and square roots of primes:
 * found here by integer Newton steps, since libm's doubles are too short for them. */
static uint64_t root(uint64_t prime, int power)
{
	/* The largest r with r^power <= prime * 2^(32*power), that is, root * 2^32. */
	unsigned __int128 low = 0, high = (unsigned __int128)1 << 37;
	while (high - low > 1) {
		const unsigned __int128 middle = (low + high) / 2;
		/* Compare middle^power with prime << 32*power without overflow: divide step by step. */
		unsigned __int128 left = middle * middle;
		bool above;
		if (power == 2) {
			above = left > (unsigned __int128)prime << 64;
		} else {
			/* middle^3 > prime * 2^96: compare the high part after multiplying 128 by 64 bits. */
			const unsigned __int128 part = (unsigned __int128)(uint64_t)left * (uint64_t)middle;
			const unsigned __int128 top = (left >> 64) * (uint64_t)middle + (part >> 64);
			const unsigned __int128 bound = (unsigned __int128)prime << 32;
			above = top > bound || (top == bound && (uint64_t)part != 0);
		}
		if (above)
			high = middle;
		else
			low = middle;
	}
	return (uint64_t)low;
}

static void constants(void)
{
	int count = 0;
	for (uint64_t n = 2; count < 64; n++) {
		bool prime = true;
		for (uint64_t d = 2; d * d <= n; d++)
			prime = prime && n % d != 0;
		if (!prime)
			continue;
		k[count] = (uint32_t)root(n, 3);
		if (count < 8)
			initial[count] = (uint32_t)root(n, 2);
		count++;
	}
}

static void chunk(uint32_t *state, const uint8_t *data)
{
	uint32_t w[64];
	for (int i = 0; i < 16; i++) {
		memcpy(&w[i], data + 4 * i, 4);
		w[i] = __builtin_bswap32(w[i]);
	}
	for (int i = 16; i < 64; i++) {
		const uint32_t x = w[i - 15], y = w[i - 2];
		w[i] = w[i - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[i - 7] +
			(rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
	}
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
	uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
	for (int i = 0; i < 64; i++) {
		const uint32_t one = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) +
			k[i] + w[i];
		const uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
			((a & b) ^ (a & c) ^ (b & c));
		h = g, g = f, f = e, e = d + one;
		d = c, c = b, b = a, a = one + two;
	}
	state[0] += a, state[1] += b, state[2] += c, state[3] += d;
	state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static uint64_t work(void)
{
	static uint8_t data[BLOCK];
	uint32_t state[8];
	uint8_t last[64] = {0x80};
	const uint64_t bits = __builtin_bswap64((uint64_t)BLOCK * BLOCKS * 8);

	constants();
	for (size_t i = 0; i < BLOCK; i++)
		data[i] = (uint8_t)(i * 31 + (i >> 8));
	memcpy(state, initial, sizeof(state));
	for (int block = 0; block < BLOCKS; block++)
		for (size_t i = 0; i < BLOCK; i += 64)
			chunk(state, data + i);
	memcpy(last + 56, &bits, 8);
	chunk(state, last);
	return (uint64_t)state[0] << 32 | state[1];
}
