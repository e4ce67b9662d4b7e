/* Sorts four million numbers by a quicksort of its own. The result is a sum that depends on their
 * order. */
#define _GNU_SOURCE
#include "compute.h"

#define COUNT (4 << 20)
static uint32_t numbers[COUNT];

static void sort(uint32_t *low, uint32_t *high)
{
	while (high - low > 16) {
		const uint32_t pivot = low[(high - low) / 2];
		uint32_t *i = low, *j = high;
		while (i <= j) {
			while (*i < pivot)
				i++;
			while (*j > pivot)
				j--;
			if (i <= j) {
				const uint32_t other = *i;
				*i++ = *j;
				*j-- = other;
			}
		}
		if (j - low < high - i) {
			sort(low, j);
			low = i;
		} else {
			sort(i, high);
			high = j;
		}
	}
	for (uint32_t *i = low + 1; i <= high; i++) {
		const uint32_t value = *i;
		uint32_t *j = i;
		for (; j > low && j[-1] > value; j--)
			*j = j[-1];
		*j = value;
	}
}

static uint64_t work(void)
{
	uint64_t x = 88172645463325252u, sum = 0;
	for (size_t i = 0; i < COUNT; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		numbers[i] = (uint32_t)x;
	}
	sort(numbers, numbers + COUNT - 1);
	for (size_t i = 0; i < COUNT; i++) {
		if (i > 0 && numbers[i - 1] > numbers[i])
			return 0;
		sum = sum * 31 + numbers[i];
	}
	return sum;
}
