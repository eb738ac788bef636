#include "plimsoll/generate.h"
