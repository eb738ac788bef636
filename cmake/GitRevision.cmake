# Run at every build (cmake -P): writes OUTPUT with the revision of SOURCE, only when it changed, so that a commit
# recompiles one small file and nothing else. A source tree without git gives "unknown".
cmake_minimum_required(VERSION 3.24)
set(revision unknown)
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=10 HEAD
  OUTPUT_VARIABLE head OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(NOT failed)
  set(revision ${head})
  execute_process(COMMAND git -C ${SOURCE} status --porcelain --untracked-files=no
    OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    string(APPEND revision "+")
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define PLIMSOLL_GIT_REV \"@revision@\"\n" @ONLY)
