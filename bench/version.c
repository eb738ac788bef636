#include "plimsoll/engine.h"
