/*
 * The VMOD's description, which varnishd looks up by name.
 *
 * A Rust cdylib exports only what Rust defines, so the exported object is in
 * src/lib.rs and filled from the generated one when the library is mapped.
 * That copy is all that happens at dlopen: the VCL compiler maps the file too.
 */

#include <stdio.h>
#include <stdint.h>
#include <string.h>

#define Vmod_tinykvm_Data tk_generated_data
#include "vcc_if.c"
#undef Vmod_tinykvm_Data

extern struct vmod_data Vmod_tinykvm_Data;
extern const size_t tk_exported_size;

__attribute__((constructor)) static void
describe(void)
{

	if (tk_exported_size == sizeof tk_generated_data)
		memcpy(&Vmod_tinykvm_Data, &tk_generated_data, sizeof tk_generated_data);
}
