/* What bindgen reads: the types and prototypes of the VCL functions, and the bridge. */

#include <stdio.h>
#include <stdint.h>

#include "vdef.h"
#include "vrt.h"
#include "vcc_if.h"
#include "bridge.h"
