/* The lifetime of the object that a backend task makes. src/ttl.rs has the rules. */

#include "house.h"

static struct objcore *
object(VRT_CTX)
{

	CHECK_OBJ_NOTNULL(ctx->bo, BUSYOBJ_MAGIC);
	CHECK_OBJ_NOTNULL(ctx->bo->fetch_objcore, OBJCORE_MAGIC);
	return (ctx->bo->fetch_objcore);
}

int
tk_object_private(VRT_CTX)
{

	return ((object(ctx)->flags & OC_F_PRIVATE) != 0);
}

int
tk_object_uncacheable(VRT_CTX)
{

	(void)object(ctx);
	return (ctx->bo->uncacheable);
}

int
tk_object_set_uncacheable(VRT_CTX)
{

	(void)object(ctx);
	if (ctx->bo->uncacheable)
		return (0);
	ctx->bo->uncacheable = 1;
	return (1);
}

void
tk_object_undo_uncacheable(VRT_CTX)
{

	if (!(object(ctx)->flags & OC_F_HFM))
		ctx->bo->uncacheable = 0;
}

int
tk_merges_uncacheable(void)
{

	return (TK_MERGES_UNCACHEABLE);
}

struct tk_ttl
tk_object_ttl(VRT_CTX)
{
	const struct objcore *oc = object(ctx);
	struct tk_ttl t = { oc->ttl, oc->grace, oc->keep };

	return (t);
}

void
tk_object_set_ttl(VRT_CTX, struct tk_ttl t)
{
	struct objcore *oc = object(ctx);

	oc->ttl = (float)t.ttl;
	oc->grace = (float)t.grace;
	oc->keep = (float)t.keep;
	VSLb(ctx->vsl, SLT_TTL, "VMOD %.0f %.0f %.0f %.0f %s", t.ttl, t.grace, t.keep,
	    oc->t_origin, ctx->bo->uncacheable ? "uncacheable" : "cacheable");
}

double
tk_default_grace(void)
{

	return (cache_param->default_grace);
}

double
tk_default_keep(void)
{

	return (cache_param->default_keep);
}
