/*
 * Sets of counters for varnishstat, from the descriptions in VSC files.
 *
 * Invariant: a set is an array of 64-bit numbers in the order of its description. vsctool.py
 * checks the places of the members when its C is compiled.
 */

#include <stdlib.h>

#include "house.h"

#include "VSC_vmod_kvm.h"
#include "VSC_vmod_kvm_program.h"

struct tk_counters {
	unsigned		magic;
#define TK_COUNTERS_MAGIC	0x3c96b3d1
	int			of_program;
	struct vsc_seg		*segment;
	volatile uint64_t	*values;
	size_t			count;
};

struct tk_counters *
tk_counters_new(const char *program)
{
	struct tk_counters *set;

	ALLOC_OBJ(set, TK_COUNTERS_MAGIC);
	if (set == NULL)
		return (NULL);
	if (program == NULL) {
		set->values = (uint64_t *)VSC_vmod_kvm_New(NULL, &set->segment, "");
		set->count = sizeof(struct VSC_vmod_kvm) / sizeof(uint64_t);
	} else {
		set->of_program = 1;
		set->values = (uint64_t *)VSC_vmod_kvm_program_New(NULL, &set->segment, "%s",
		    program);
		set->count = sizeof(struct VSC_vmod_kvm_program) / sizeof(uint64_t);
	}
	if (set->values == NULL)
		FREE_OBJ(set);
	return (set);
}

void
tk_counters_write(struct tk_counters *set, const uint64_t *values, size_t count)
{
	size_t n;

	CHECK_OBJ_NOTNULL(set, TK_COUNTERS_MAGIC);
	for (n = 0; n < count && n < set->count; n++)
		set->values[n] = values[n];
}

void
tk_counters_delete(struct tk_counters *set)
{

	CHECK_OBJ_NOTNULL(set, TK_COUNTERS_MAGIC);
	if (set->of_program)
		VSC_vmod_kvm_program_Destroy(&set->segment);
	else
		VSC_vmod_kvm_Destroy(&set->segment);
	FREE_OBJ(set);
}
