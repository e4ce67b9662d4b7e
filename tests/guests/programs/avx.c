/* Two thousand million multiply-adds in AVX registers, as wide as the CPU has them. The result is
 * their sum, the same for each width. */
#define _GNU_SOURCE
#include "compute.h"

#define LANES 64
#define ROUNDS 32000000

static volatile double one = 1.0;
typedef double vector __attribute__((vector_size(64)));

/* The compiler makes zmm, ymm or xmm instructions of it. The numbers stay integers below 2^53, so
 * that no order of rounding matters. */
#define KERNEL(name, isa) \
	__attribute__((target(isa), noinline)) static double name(void) \
	{ \
		vector sum[LANES / 8]; \
		for (int i = 0; i < LANES / 8; i++) \
			sum[i] = (vector){1, 2, 3, 4, 5, 6, 7, 8} + 8.0 * i; \
		const vector step = {3, 5, 7, 9, 11, 13, 15, 17}, factor = one - (vector){0}; \
		for (int round = 0; round < ROUNDS; round++) \
			for (int i = 0; i < LANES / 8; i++) \
				sum[i] = sum[i] * factor + step; \
		double total = 0; \
		for (int i = 0; i < LANES / 8; i++) \
			for (int j = 0; j < 8; j++) \
				total += sum[i][j]; \
		return total; \
	}

KERNEL(wide, "avx512f")
KERNEL(middle, "avx2,fma")
KERNEL(narrow, "sse2")

static uint64_t work(void)
{
	if (__builtin_cpu_supports("avx512f"))
		return (uint64_t)wide();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return (uint64_t)middle();
	return (uint64_t)narrow();
}
