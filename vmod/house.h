/* The headers of varnishd that the shims are compiled against, in the order they demand. */

#include "versions.h"
#include "cache/cache_filter.h"
#include "vcl.h"
#include "bridge.h"
