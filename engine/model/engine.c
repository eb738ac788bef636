#include "backend.h"
#include "plimsoll/engine.h"
