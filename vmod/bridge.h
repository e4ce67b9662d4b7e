/*
 * The seam between varnishd and the Rust side. The first half is what the Rust
 * side may ask of varnishd: one small function for each thing that is a macro,
 * variadic or an internal struct there. The second half is what varnishd's
 * callbacks reach in Rust. build.rs makes Rust declarations of both halves.
 *
 * Invariant: no struct of varnishd is visible to Rust. Layouts differ between
 * Varnish versions; only these C files are compiled against them.
 */

#ifndef TK_BRIDGE_H
#define TK_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

struct vrt_ctx;
struct director;
struct strands;
struct vfp_ctx;
struct vmod_priv;

struct tk_counters;

struct tk_bytes {
	const char	*ptr;
	size_t		len;
};

/* Where in VCL a function is called from. */
#define TK_IN_INIT		1
#define TK_IN_BACKEND_FETCH	2
#define TK_IN_OTHER		3	/* no transaction */
#define TK_IN_BACKEND_RESPONSE	4
#define TK_IN_BACKEND_ERROR	5
#define TK_IN_DIRECTOR		6	/* a backend task, not in VCL */
#define TK_IN_SYNTH		7
#define TK_IN_CLIENT		8	/* any other place of a client task */

/* Log tags. */
#define TK_LOG			0	/* SLT_VCL_Log */
#define TK_ERROR		1	/* SLT_Error */
#define TK_FETCH_ERROR		2	/* SLT_FetchError */
#define TK_VCL_ERROR		3	/* SLT_VCL_Error */

/* The HTTP messages of a task: bereq and beresp, or req and resp. */
#define TK_REQUEST		0
#define TK_RESPONSE		1

/* Who writes a field: a guest has to leave room for the others. */
#define TK_GUEST		0
#define TK_VMOD			1

/* Results of tk_http_append() and tk_http_set(). */
#define TK_NO_FIELD		-1	/* http_max_hdr reached */
#define TK_NO_WORKSPACE		-2
#define TK_NO_TABLE		-3	/* there is no such message yet */

/* Results of tk_request_body(). */
#define TK_BODY_DONE		0
#define TK_BODY_STOPPED		1	/* the sink said so */
#define TK_BODY_BROKEN		2	/* the client's body could not be read */

/* Results of tk_rs_body_pull(). */
#define TK_PULL_MORE		0
#define TK_PULL_END		1
#define TK_PULL_FAILED		-1

/* context.c */
int tk_ctx_valid(const struct vrt_ctx *);
int tk_ctx_where(const struct vrt_ctx *);
void tk_fail(const struct vrt_ctx *, const char *, size_t);
/* Without a context the line belongs to no transaction. */
void tk_log(const struct vrt_ctx *, int tag, const char *, size_t);
/* The same while a body is fetched. */
void tk_fetch_log(const struct vfp_ctx *, int tag, const char *, size_t);
/* To whoever loads the VCL (vcl.load, varnishd at start). */
void tk_tell_loader(const struct vrt_ctx *, const char *, size_t);
/* A NUL-terminated copy on the task's workspace that leaves `spare` bytes there, or NULL. */
const char *tk_workspace_copy(const struct vrt_ctx *, const char *, size_t, size_t spare);
/* So many bytes and a NUL behind them, on the task's workspace, or NULL. */
char *tk_workspace_alloc(const struct vrt_ctx *, size_t);
/* Counts the attempts of a backend task. */
unsigned tk_attempt(const struct vrt_ctx *);
/* The pointer that this VMOD keeps for the current task, or NULL without room. */
void **tk_task(const struct vrt_ctx *);
/* The pointer that this VMOD keeps for a VCL. */
void **tk_vcl(struct vmod_priv *);

size_t tk_strands(const struct strands *);
const char *tk_strand(const struct strands *, size_t);

/* director.c */
const struct director *tk_director_new(const struct vrt_ctx *, const char *name);
int tk_director_healthy(const struct vrt_ctx *, const struct director *);
void tk_director_delete(const struct director *);

/* counters.c */
/* The counters of one program in varnishstat, those of the process with NULL. */
struct tk_counters *tk_counters_new(const char *program);
void tk_counters_write(struct tk_counters *, const uint64_t *, size_t);
void tk_counters_delete(struct tk_counters *);

/* http.c */
int tk_http_available(const struct vrt_ctx *, int side);
unsigned tk_http_fields(const struct vrt_ctx *, int side);
struct tk_bytes tk_http_field(const struct vrt_ctx *, int side, unsigned);
struct tk_bytes tk_http_method(const struct vrt_ctx *);
/* Find, set and unset mean the first field of that name. */
struct tk_bytes tk_http_find(const struct vrt_ctx *, int side, const char *name, size_t);
/* These answer the place of the field in varnishd's table, which is never 0. */
int tk_http_append(const struct vrt_ctx *, int side, const char *, size_t, int writer);
int tk_http_set(const struct vrt_ctx *, int side, const char *, size_t, size_t name_len,
    int writer);
/* A field of our own. */
int tk_http_add(const struct vrt_ctx *, int side, const char *name, size_t, const char *value,
    size_t);
unsigned tk_http_unset(const struct vrt_ctx *, int side, const char *name, size_t);

/* fetch.c */
int tk_request_has_body(const struct vrt_ctx *);
/* What the request says about the length of its body; negative: nothing. */
int64_t tk_request_length(const struct vrt_ctx *);
int tk_request_body(const struct vrt_ctx *, void *sink);
/* In seconds; not a number, or 0, where VCL has set none. */
double tk_first_byte_timeout(const struct vrt_ctx *);
/*
 * Announces the response; `source` is handed to tk_rs_body_open() and tk_rs_body_pull(). What is not
 * streamed, unless VCL wants it, the client gets when all of it is stored.
 */
int tk_respond(const struct vrt_ctx *, unsigned status, int has_body, int64_t length, int stream,
    void *source);
void tk_fetch_finished(const struct vrt_ctx *);

/* synth.c */
void tk_synth_status(const struct vrt_ctx *, unsigned);
/* Adds to the body; 0 if that worked. */
int tk_synth_body(const struct vrt_ctx *, const void *, size_t);

/* ttl.c */
struct tk_ttl {
	double		ttl;
	double		grace;
	double		keep;
};
int tk_object_private(const struct vrt_ctx *);
int tk_object_uncacheable(const struct vrt_ctx *);
/* Whether that changed anything. */
int tk_object_set_uncacheable(const struct vrt_ctx *);
/* Does nothing once the object is made. */
void tk_object_undo_uncacheable(const struct vrt_ctx *);
/* Whether a 304 may make the old object's successor uncacheable. */
int tk_merges_uncacheable(void);
struct tk_ttl tk_object_ttl(const struct vrt_ctx *);
void tk_object_set_ttl(const struct vrt_ctx *, struct tk_ttl);
double tk_default_grace(void);
double tk_default_keep(void);

/* What varnishd calls: src/director.rs, body.rs, fetch.rs, task.rs, state.rs */
int tk_rs_get_headers(const struct vrt_ctx *, const struct director *);
void tk_rs_finish(const struct vrt_ctx *, const struct director *);
int tk_rs_push_body(void *sink, const void *, size_t);
int tk_rs_body_open(const struct vrt_ctx *, void *source);
int tk_rs_body_pull(void *source, const struct vfp_ctx *, void *to, size_t room, size_t *written);
void tk_rs_task_ended(void *task);
void tk_rs_vcl_ended(void *state);

#endif
