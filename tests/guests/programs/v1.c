/* One of two builds of a program. */
#define VERSION "v1"
#include "version.h"
