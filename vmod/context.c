/* Contexts, logging, workspace and task memory for the Rust side. */

#include "house.h"

static const enum VSL_tag_e tags[] = {
	[TK_LOG] = SLT_VCL_Log,
	[TK_ERROR] = SLT_Error,
	[TK_FETCH_ERROR] = SLT_FetchError,
	[TK_VCL_ERROR] = SLT_VCL_Error,
};

static int
printable(size_t len)
{

	return (len > INT_MAX ? INT_MAX : (int)len);
}

int
tk_ctx_valid(VRT_CTX)
{

	return (VALID_OBJ(ctx, VRT_CTX_MAGIC));
}

int
tk_ctx_where(VRT_CTX)
{

	switch (ctx->method) {
	case VCL_MET_INIT:
		return (TK_IN_INIT);
	case VCL_MET_BACKEND_FETCH:
		return (TK_IN_BACKEND_FETCH);
	case VCL_MET_BACKEND_RESPONSE:
		return (TK_IN_BACKEND_RESPONSE);
#ifdef VCL_MET_BACKEND_REFRESH
	/* From 9.0 on: a 304 is about to be merged with the object that it is about. */
	case VCL_MET_BACKEND_REFRESH:
		return (TK_IN_BACKEND_RESPONSE);
#endif
	case VCL_MET_BACKEND_ERROR:
		return (TK_IN_BACKEND_ERROR);
	case VCL_MET_SYNTH:
		return (TK_IN_SYNTH);
	default:
		break;
	}
	if (ctx->req != NULL)
		return (TK_IN_CLIENT);
	/* Directors are called between the subroutines. */
	return (ctx->bo != NULL && ctx->method == 0 ? TK_IN_DIRECTOR : TK_IN_OTHER);
}

void
tk_fail(VRT_CTX, const char *text, size_t len)
{

	VRT_fail(ctx, "%.*s", printable(len), text);
}

static void
put(struct vsl_log *vsl, int tag, const char *text, size_t len)
{
	txt t = { text, text + printable(len) };

	if (tag < 0 || (size_t)tag >= sizeof tags / sizeof tags[0])
		tag = TK_ERROR;
	if (vsl != NULL)
		VSLbt(vsl, tags[tag], t);
	else
		VSL(tags[tag], NO_VXID, "%.*s", (int)Tlen(t), text);
}

void
tk_log(VRT_CTX, int tag, const char *text, size_t len)
{

	put(ctx == NULL ? NULL : ctx->vsl, tag, text, len);
}

void
tk_fetch_log(const struct vfp_ctx *vc, int tag, const char *text, size_t len)
{

	CHECK_OBJ_NOTNULL(vc, VFP_CTX_MAGIC);
	CHECK_OBJ_NOTNULL(vc->wrk, WORKER_MAGIC);
	put(vc->wrk->vsl, tag, text, len);
}

void
tk_tell_loader(VRT_CTX, const char *text, size_t len)
{

	if (ctx->msg != NULL)
		VSB_printf(ctx->msg, "%.*s\n", printable(len), text);
}

static char *
take(VRT_CTX, size_t len, size_t spare)
{
	unsigned room;
	char *to;

	if (ctx->ws == NULL)
		return (NULL);
	/* Not WS_Alloc(): asking for too much there marks the workspace as overflowed. */
	room = WS_ReserveAll(ctx->ws);
	if (room < spare || len >= room - spare) {
		WS_Release(ctx->ws, 0);
		return (NULL);
	}
	to = WS_Reservation(ctx->ws);
	to[len] = '\0';
	WS_Release(ctx->ws, len + 1);
	return (to);
}

const char *
tk_workspace_copy(VRT_CTX, const char *from, size_t len, size_t spare)
{
	char *to;

	to = take(ctx, len, spare);
	if (to != NULL)
		memcpy(to, from, len);
	return (to);
}

char *
tk_workspace_alloc(VRT_CTX, size_t len)
{

	return (take(ctx, len, 0));
}

unsigned
tk_attempt(VRT_CTX)
{

	CHECK_OBJ_NOTNULL(ctx->bo, BUSYOBJ_MAGIC);
	return (ctx->bo->retries);
}

size_t
tk_strands(const struct strands *strands)
{

	return (strands == NULL || strands->n < 0 ? 0 : (size_t)strands->n);
}

const char *
tk_strand(const struct strands *strands, size_t nth)
{

	return (nth < tk_strands(strands) ? strands->p[nth] : NULL);
}

static void
task_ended(VRT_CTX, void *task)
{

	(void)ctx;
	tk_rs_task_ended(task);
}

static const struct vmod_priv_methods task_methods[1] = {{
	.magic = VMOD_PRIV_METHODS_MAGIC,
	.type = "tinykvm task",
	.fini = task_ended,
}};

void **
tk_task(VRT_CTX)
{
	struct vmod_priv *priv;

	priv = VRT_priv_task(ctx, task_methods);
	if (priv == NULL)
		return (NULL);
	priv->methods = task_methods;
	return (&priv->priv);
}

static void
vcl_ended(VRT_CTX, void *state)
{

	(void)ctx;
	tk_rs_vcl_ended(state);
}

static const struct vmod_priv_methods vcl_methods[1] = {{
	.magic = VMOD_PRIV_METHODS_MAGIC,
	.type = "tinykvm vcl",
	.fini = vcl_ended,
}};

void **
tk_vcl(struct vmod_priv *priv)
{

	AN(priv);
	priv->methods = vcl_methods;
	return (&priv->priv);
}
