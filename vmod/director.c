/*
 * The directors that program() returns.
 *
 * They live as long as the VCL and carry nothing: what a request wants of its
 * program stands in the task (src/task.rs). So they are shared by all tasks,
 * survive rollbacks of the workspace and need no reference counting.
 */

#include "house.h"

static int
get_headers(VRT_CTX, VCL_BACKEND dir)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	CHECK_OBJ_NOTNULL(ctx->bo, BUSYOBJ_MAGIC);
	CHECK_OBJ_NOTNULL(dir, DIRECTOR_MAGIC);
	return (tk_rs_get_headers(ctx, dir));
}

static void
finish(VRT_CTX, VCL_BACKEND dir)
{

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	CHECK_OBJ_NOTNULL(ctx->bo, BUSYOBJ_MAGIC);
	CHECK_OBJ_NOTNULL(dir, DIRECTOR_MAGIC);
	tk_rs_finish(ctx, dir);
}

static const struct vdi_methods methods[1] = {{
	.magic = VDI_METHODS_MAGIC,
	.type = "tinykvm",
	.gethdrs = get_headers,
	.finish = finish,
}};

VCL_BACKEND
tk_director_new(VRT_CTX, const char *name)
{
	VCL_BACKEND dir;

	dir = VRT_AddDirector(ctx, methods, NULL, "%s", name);
	if (dir != NULL)
		VRT_StaticDirector(dir);
	return (dir);
}

/* varnishd fetches from sick directors too: it leaves the question to them. */
int
tk_director_healthy(VRT_CTX, VCL_BACKEND dir)
{

	return (VRT_Healthy(ctx, dir, NULL));
}

void
tk_director_delete(VCL_BACKEND dir)
{

	VRT_DelDirector(&dir);
}
