/* One of two builds of a program. */
#define VERSION "v2"
#include "version.h"
