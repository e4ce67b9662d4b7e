/* Header fields of the HTTP messages of a task. */

#include "house.h"

#include <strings.h>

/*
 * What a guest leaves for fields of ours and of Varnish (Content-Type, Date, Age,
 * Via ...): a full table or workspace is the guest's to see, not the client's.
 */
#define SPARE_FIELDS	8
#define SPARE_BYTES	2048

/* NULL: the task has no such message (yet). */
static struct http *
message(VRT_CTX, int side)
{
	struct http *hp;

	if (ctx->req != NULL) {
		/* Of a client task; in vcl_pipe there is a busy object too. */
		if (side == TK_REQUEST)
			hp = ctx->http_req;
		else if (ctx->method == VCL_MET_DELIVER || ctx->method == VCL_MET_SYNTH)
			hp = ctx->http_resp;
		else
			hp = NULL;
	} else if (side == TK_REQUEST) {
		hp = ctx->http_bereq;
	} else {
		/* Not set up yet, or still of the attempt before. */
		hp = ctx->method == VCL_MET_BACKEND_FETCH ? NULL : ctx->http_beresp;
	}
	CHECK_OBJ_ORNULL(hp, HTTP_MAGIC);
	return (hp);
}

int
tk_http_available(VRT_CTX, int side)
{

	return (message(ctx, side) != NULL);
}

static struct tk_bytes
bytes(txt t)
{
	struct tk_bytes b = { NULL, 0 };

	if (t.b != NULL && t.e > t.b) {
		b.ptr = t.b;
		b.len = pdiff(t.b, t.e);
	}
	return (b);
}

static int
is_named(txt t, const char *name, size_t len)
{

	return (t.b != NULL && pdiff(t.b, t.e) > len && t.b[len] == ':' &&
	    !strncasecmp(t.b, name, len));
}

unsigned
tk_http_fields(VRT_CTX, int side)
{
	const struct http *hp = message(ctx, side);

	return (hp != NULL && hp->nhd > HTTP_HDR_FIRST ? hp->nhd - HTTP_HDR_FIRST : 0);
}

struct tk_bytes
tk_http_field(VRT_CTX, int side, unsigned u)
{
	const struct http *hp = message(ctx, side);
	struct tk_bytes none = { NULL, 0 };

	if (u >= tk_http_fields(ctx, side))
		return (none);
	return (bytes(hp->hd[HTTP_HDR_FIRST + u]));
}

struct tk_bytes
tk_http_method(VRT_CTX)
{
	const struct http *hp = message(ctx, TK_REQUEST);
	struct tk_bytes none = { NULL, 0 };

	return (hp == NULL ? none : bytes(hp->hd[HTTP_HDR_METHOD]));
}

/*
 * While the director runs, beresp is not logged: varnishd logs all of it when the
 * director is done.
 */
static int
logged_later(VRT_CTX, const struct http *hp)
{

	return (ctx->method == 0 && hp == ctx->http_beresp && ctx->bo != NULL &&
	    ctx->bo->htc == NULL);
}

/* Puts a field where there is room for it. */
static void
put(VRT_CTX, struct http *hp, unsigned at, const char *field)
{
	struct vsl_log *vsl = hp->vsl;

	if (logged_later(ctx, hp))
		hp->vsl = NULL;
	if (at == hp->nhd)
		http_SetHeader(hp, field);
	else
		http_SetH(hp, at, field);
	hp->vsl = vsl;
}

/* Where the first field of that name is, or 0. */
static unsigned
position(const struct http *hp, const char *name, size_t len)
{
	unsigned u;

	if (hp == NULL)
		return (0);
	for (u = HTTP_HDR_FIRST; u < hp->nhd; u++)
		if (is_named(hp->hd[u], name, len))
			return (u);
	return (0);
}

struct tk_bytes
tk_http_find(VRT_CTX, int side, const char *name, size_t len)
{
	const struct http *hp = message(ctx, side);
	struct tk_bytes none = { NULL, 0 };
	unsigned u = position(hp, name, len);

	return (u == 0 ? none : bytes(hp->hd[u]));
}

static const char *
keep(VRT_CTX, const char *field, size_t len, int writer)
{

	return (tk_workspace_copy(ctx, field, len, writer == TK_GUEST ? SPARE_BYTES : 0));
}

int
tk_http_append(VRT_CTX, int side, const char *field, size_t len, int writer)
{
	struct http *hp = message(ctx, side);
	const char *copy;

	if (hp == NULL)
		return (TK_NO_TABLE);
	/* http_SetHeader() would drop the field and fail the task. */
	if (hp->nhd + (writer == TK_GUEST ? SPARE_FIELDS : 0) >= hp->shd)
		return (TK_NO_FIELD);
	copy = keep(ctx, field, len, writer);
	if (copy == NULL)
		return (TK_NO_WORKSPACE);
	put(ctx, hp, hp->nhd, copy);
	return (hp->nhd - 1);
}

int
tk_http_set(VRT_CTX, int side, const char *field, size_t len, size_t name_len, int writer)
{
	struct http *hp = message(ctx, side);
	const char *copy;
	unsigned u = position(hp, field, name_len);

	if (u == 0)
		return (tk_http_append(ctx, side, field, len, writer));
	copy = keep(ctx, field, len, writer);
	if (copy == NULL)
		return (TK_NO_WORKSPACE);
	put(ctx, hp, u, copy);
	return ((int)u);
}

int
tk_http_add(VRT_CTX, int side, const char *name, size_t name_len, const char *value, size_t len)
{
	struct http *hp = message(ctx, side);
	char *field;

	if (hp == NULL)
		return (TK_NO_TABLE);
	if (hp->nhd >= hp->shd)
		return (TK_NO_FIELD);
	field = tk_workspace_alloc(ctx, name_len + 2 + len);
	if (field == NULL)
		return (TK_NO_WORKSPACE);
	memcpy(field, name, name_len);
	memcpy(field + name_len, ": ", 2);
	memcpy(field + name_len + 2, value, len);
	put(ctx, hp, hp->nhd, field);
	return (hp->nhd - 1);
}

unsigned
tk_http_unset(VRT_CTX, int side, const char *name, size_t len)
{
	struct http *hp = message(ctx, side);
	unsigned u = position(hp, name, len);

	if (u == 0)
		return (0);
	/* http_Unset() would remove all of that name. */
	if (!logged_later(ctx, hp))
		VSLbt(hp->vsl, (enum VSL_tag_e)(hp->logtag + HTTP_HDR_UNSET), hp->hd[u]);
	memmove(&hp->hd[u], &hp->hd[u + 1], (hp->nhd - u - 1) * sizeof hp->hd[0]);
	memmove(&hp->hdf[u], &hp->hdf[u + 1], (hp->nhd - u - 1) * sizeof hp->hdf[0]);
	hp->nhd--;
	return (u);
}
