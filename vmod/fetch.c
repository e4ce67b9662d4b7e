/*
 * Bodies: the request's towards the guest, the guest's into Varnish's storage.
 *
 * The response body is a fetch filter at the bottom of the pipeline, where the
 * HTTP/1 backend has its own: gzip, ESI and storage stand above it as usual.
 */

#include "house.h"

#include "vtim.h"

static struct busyobj *
task(VRT_CTX)
{

	CHECK_OBJ_NOTNULL(ctx->bo, BUSYOBJ_MAGIC);
	return (ctx->bo);
}

/*--------------------------------------------------------------------*/

int
tk_request_has_body(VRT_CTX)
{
	struct busyobj *bo = task(ctx);

	if (bo->bereq_body != NULL)
		return (1);
	return (bo->req != NULL && bo->req->req_body_status != BS_NONE);
}

/* Not VRT_r_bereq_first_byte_timeout(): newer versions answer the parameter where VCL says nothing. */
double
tk_first_byte_timeout(VRT_CTX)
{

	return (task(ctx)->first_byte_timeout);
}

int64_t
tk_request_length(VRT_CTX)
{
	struct busyobj *bo = task(ctx);

	if (bo->bereq_body != NULL)
		return (ObjGetLen(bo->wrk, bo->bereq_body));
	return (http_GetContentLength(bo->bereq));
}

struct sink {
	void		*to;
	int		stopped;
};

static int v_matchproto_(objiterate_f)
push(void *priv, unsigned flush, const void *ptr, ssize_t len)
{
	struct sink *sink = priv;

	(void)flush;
	if (len > 0 && tk_rs_push_body(sink->to, ptr, (size_t)len)) {
		sink->stopped = 1;
		return (-1);
	}
	return (0);
}

int
tk_request_body(VRT_CTX, void *to)
{
	struct busyobj *bo = task(ctx);
	struct sink sink = { to, 0 };
	int i;

	if (bo->bereq_body != NULL) {
		i = ObjIterate(bo->wrk, bo->bereq_body, &sink, push, 0);
	} else {
		CHECK_OBJ_NOTNULL(bo->req, REQ_MAGIC);
		i = VRB_Iterate(bo->wrk, bo->vsl, bo->req, push, &sink) < 0;
		if (bo->req->req_body_status != BS_CACHED)
			bo->no_retry = "req.body not cached";
		if (bo->req->req_body_status == BS_ERROR)
			bo->req->doclose = SC_RX_BODY;
	}
	VSLb_ts_busyobj(bo, "Bereq", W_TIM_real(bo->wrk));
	if (sink.stopped)
		return (TK_BODY_STOPPED);
	return (i ? TK_BODY_BROKEN : TK_BODY_DONE);
}

/*--------------------------------------------------------------------*/

static enum vfp_status v_matchproto_(vfp_init_f)
body_open(VRT_CTX, struct vfp_ctx *vc, struct vfp_entry *vfe)
{

	CHECK_OBJ_NOTNULL(vc, VFP_CTX_MAGIC);
	CHECK_OBJ_NOTNULL(vfe, VFP_ENTRY_MAGIC);
	return (tk_rs_body_open(ctx, vfe->priv1) ? VFP_ERROR : VFP_OK);
}

static enum vfp_status v_matchproto_(vfp_pull_f)
body_pull(struct vfp_ctx *vc, struct vfp_entry *vfe, void *to, ssize_t *room)
{
	size_t written = 0;
	int i;

	CHECK_OBJ_NOTNULL(vc, VFP_CTX_MAGIC);
	CHECK_OBJ_NOTNULL(vfe, VFP_ENTRY_MAGIC);
	AN(room);
	i = tk_rs_body_pull(vfe->priv1, vc, to, *room > 0 ? (size_t)*room : 0, &written);
	*room = (ssize_t)written;
	switch (i) {
	case TK_PULL_MORE:
		return (VFP_OK);
	case TK_PULL_END:
		return (VFP_END);
	default:
		return (VFP_Error(vc, "tinykvm: the response body ends early"));
	}
}

static const struct vfp body_filter[1] = {{
	.name = "tinykvm",
	.init = body_open,
	.pull = body_pull,
}};

/* What status, reason, connection and filter take of the workspace, and more. */
#define RESPONSE_ROOM (sizeof(struct http_conn) + sizeof(struct vfp_entry) + 512)

int
tk_respond(VRT_CTX, unsigned status, int has_body, int64_t length, int stream, void *source)
{
	struct busyobj *bo = task(ctx);
	struct vsl_log *vsl = bo->beresp->vsl;
	struct vfp_entry *vfe;
	unsigned room;

	/*
	 * All room that is needed below, asked for at once: nothing may fail
	 * without a log (next comment), nor leave a filter without its source.
	 */
	room = WS_ReserveAll(bo->ws);
	WS_Release(bo->ws, 0);
	if (room < RESPONSE_ROOM)
		return (-1);
	/* varnishd logs beresp as a whole when the director is done. */
	bo->beresp->vsl = NULL;
	http_PutResponse(bo->beresp, "HTTP/1.1", (uint16_t)status, NULL);
	bo->beresp->vsl = vsl;

	AZ(bo->htc);
	bo->htc = WS_Alloc(bo->ws, sizeof *bo->htc);
	AN(bo->htc);
	INIT_OBJ(bo->htc, HTTP_CONN_MAGIC);
	bo->htc->doclose = SC_NULL;
	bo->htc->body_status = has_body ? BS_LENGTH : BS_NONE;
	bo->htc->content_length = has_body ? length : -1;

	if (!stream)
		bo->do_stream = 0;

	vfe = VFP_Push(bo->vfc, body_filter);
	AN(vfe);
	vfe->priv1 = source;
	return (0);
}

void
tk_fetch_finished(VRT_CTX)
{

	task(ctx)->htc = NULL;
}
