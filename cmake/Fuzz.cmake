# plim_fuzz(NAME SOURCES ... LINK ... CORPUS DIRECTORY): one fuzz target, a C file that defines LLVMFuzzerTestOneInput.
#
# With PLIMSOLL_FUZZ it becomes the libFuzzer program fuzz/fuzz_NAME of the build folder. In ordinary builds the same file,
# linked with engine/fuzz/replay.c, runs every input of the corpus as the test fuzz_replay_NAME. CORPUS is relative to the
# calling folder and ends in /NAME.

if(PLIMSOLL_FUZZ)
  if(NOT CMAKE_C_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "PLIMSOLL_FUZZ needs clang: CC=clang cmake --preset asan -B build/fuzz -DPLIMSOLL_FUZZ=ON")
  endif()
  # Coverage of everything; the main function comes with the targets only.
  target_compile_options(plim_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(plim_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(plim_fuzz name)
  cmake_parse_arguments(ARG "" "CORPUS" "SOURCES;LINK" ${ARGN})
  if(PLIMSOLL_FUZZ)
    add_executable(fuzz_${name} ${ARG_SOURCES})
    set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fuzz)
    target_link_libraries(fuzz_${name} PRIVATE ${ARG_LINK} plim_options)
    target_include_directories(fuzz_${name} PRIVATE ${PROJECT_SOURCE_DIR}/engine/fuzz)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  endif()
  if(BUILD_TESTING)
    add_executable(fuzz_replay_${name} ${ARG_SOURCES} ${PROJECT_SOURCE_DIR}/engine/fuzz/replay.c)
    set_target_properties(fuzz_replay_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    target_link_libraries(fuzz_replay_${name} PRIVATE ${ARG_LINK} plim_options)
    target_include_directories(fuzz_replay_${name} PRIVATE ${PROJECT_SOURCE_DIR}/engine/fuzz)
    add_test(NAME fuzz_replay_${name} COMMAND fuzz_replay_${name} ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_CORPUS})
  endif()
endfunction()
