/*
 * What differs between the versions of Varnish that this VMOD is built for, under one name each.
 * The only file that asks for a version; docs/compatibility.md has the list.
 *
 *	VRT 15	Varnish Cache 7.1	Debian 12
 *	VRT 21	Varnish Cache 7.7	Debian 13
 *	VRT 23	Vinyl Cache 9.0		Debian sid
 */

#ifndef TK_VERSIONS_H
#define TK_VERSIONS_H

#if __has_include("cache/cache_vinyld.h")
#  include "cache/cache_vinyld.h"
#else
#  include "cache/cache_varnishd.h"
#endif

#if VRT_MAJOR_VERSION < 15
#  error "TinyKVM needs Varnish 7.1 or newer"
#endif

/* Later ones take the 304 of a fetch that is uncacheable for the client's. */
#define TK_MERGES_UNCACHEABLE	(VRT_MAJOR_VERSION < 23)

/* The transaction of a log line that belongs to none. */
#if VRT_MAJOR_VERSION < 17
#  define NO_VXID	0
#endif

#endif
