# Build options, warnings and sanitizers, for every target of the project.

set(PLIMSOLL_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (if nvcc is there), ON, OFF")
set_property(CACHE PLIMSOLL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(PLIMSOLL_SANITIZE "" CACHE STRING "Sanitizers to build with, as for -fsanitize=")
option(PLIMSOLL_WERROR "Treat warnings as errors" OFF)
option(PLIMSOLL_GPU_TESTS "Put the GPU tests into the archive, for ci/gpu; their data is then looked for in ./test-data" OFF)
option(PLIMSOLL_FUZZ "Build the libFuzzer targets (needs clang)" OFF)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)   # glibc: argp, mremap, sched_getaffinity
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# One program that runs from the build tree and from any place that it is copied to with its libraries.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})

add_library(plim_options INTERFACE)
# Contraction is off so that a kernel and its plain twin round alike; kernels ask for FMA by name.
target_compile_options(plim_options INTERFACE
  "$<$<COMPILE_LANGUAGE:C>:-Wall;-Wextra;-Wconversion;-Wshadow;-Wstrict-prototypes;-Wmissing-prototypes;-Wvla;\
-ffp-contract=off;-fno-math-errno;-fvisibility=hidden>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-fvisibility=hidden,-fno-exceptions,-fno-threadsafe-statics;--extended-lambda;-lineinfo>")
# Programs with CUDA kernels are linked as C++, of whose library they use nothing.
target_link_options(plim_options INTERFACE LINKER:--as-needed)
target_compile_definitions(plim_options INTERFACE _GNU_SOURCE)
if(PLIMSOLL_WERROR)
  target_compile_options(plim_options INTERFACE
    "$<$<COMPILE_LANGUAGE:C>:-Werror>" "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Werror;-Werror=all-warnings>")
endif()
if(PLIMSOLL_SANITIZE)
  target_compile_options(plim_options INTERFACE
    -fsanitize=${PLIMSOLL_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(plim_options INTERFACE -fsanitize=${PLIMSOLL_SANITIZE})
endif()

# plim_library(NAME SOURCES ... LINK ...): one folder, one static library. A library sees its own folder's headers, those
# of the libraries it links, and nothing else, so that an include against the direction of dependency doesn't compile.
function(plim_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_LINK} PRIVATE plim_options)
endfunction()

# plim_test(NAME SOURCES ... LINK ...): a Criterion program that is one ctest entry. Criterion runs each test in a process
# of its own; PLIMSOLL_TEST_DATA is where the fixtures are. Criterion's arenas lie where the thread sanitizer's shadow does,
# so under that sanitizer only plim_stress programs are built.
function(plim_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  if(NOT BUILD_TESTING OR PLIMSOLL_SANITIZE MATCHES "thread")
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} plim_options PkgConfig::CRITERION)
  set(data ${CMAKE_CURRENT_SOURCE_DIR}/data)
  if(PLIMSOLL_GPU_TESTS AND name MATCHES "^test_cuda")
    set(data test-data)
  endif()
  target_compile_definitions(${name} PRIVATE PLIMSOLL_TEST_DATA="${data}" PLIMSOLL_SOURCE="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 1200
    ENVIRONMENT "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/cmake/lsan.supp:print_suppressions=0")
endfunction()

# plim_stress(NAME SOURCES ... LINK ...): a plain program that exercises threads and fails by its exit status.
function(plim_stress name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} plim_options)
  target_compile_definitions(${name} PRIVATE PLIMSOLL_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 600)
endfunction()
