#ifndef PLIM_VERSION_H
#define PLIM_VERSION_H

/* What this program was built from and how, fixed at build time. */

extern const char plim_version[];          /* "0.1.0" */
extern const char plim_git_revision[];     /* "1a2b3c4", with "+" behind when the tree had changes; "unknown" */
extern const char plim_compiler[];         /* "gcc 12.2.0" */
extern const char plim_compile_flags[];    /* "-O3 -DNDEBUG": the build type's, without warnings */
extern const char plim_build_type[];       /* "Release" */

#endif
