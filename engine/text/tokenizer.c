#include "plimsoll/tokenizer.h"
