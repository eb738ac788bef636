#include "version.h"

#include "git_revision.h"   /* written by the build, see bench/CMakeLists.txt */

#define TEXT_OF(token) #token
#define TEXT(token) TEXT_OF(token)

#ifdef __clang__
#define COMPILER "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) "." TEXT(__clang_patchlevel__)
#else
#define COMPILER "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__)
#endif

const char plim_version[] = PLIMSOLL_VERSION;
const char plim_git_revision[] = PLIMSOLL_GIT_REV;
const char plim_compiler[] = COMPILER;
const char plim_compile_flags[] = PLIMSOLL_COMPILE_FLAGS;
const char plim_build_type[] = PLIMSOLL_BUILD_TYPE;
