/* The response that vcl_synth and vcl_backend_error make. */

#include "house.h"

#include "vsb.h"

static struct http *
response(VRT_CTX)
{
	struct http *hp;

	hp = ctx->method == VCL_MET_SYNTH ? ctx->http_resp : ctx->http_beresp;
	CHECK_OBJ_NOTNULL(hp, HTTP_MAGIC);
	return (hp);
}

void
tk_synth_status(VRT_CTX, unsigned status)
{
	const char *reason = http_Status2Reason(status, NULL);

	/* What clients of upstream's VMOD get to see. */
	if (!strncmp(reason, "Unknown ", 8))
		reason = "Unknown reason";
	http_SetStatus(response(ctx), (uint16_t)status, reason);
}

int
tk_synth_body(VRT_CTX, const void *from, size_t len)
{
	struct vsb *body;

	if (ctx->specific == NULL || len > INT_MAX)
		return (-1);
	CAST_OBJ(body, ctx->specific, VSB_MAGIC);
	if (body == NULL)
		return (-1);
	return (VSB_bcat(body, from, (ssize_t)len));
}
