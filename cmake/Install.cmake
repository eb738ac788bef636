# Installation and packages.
#
# Layout: bin/plimsoll, lib/plimsoll/*.so* (the archive only), share/plimsoll/{suites,baselines,gnuplot}. The program looks
# for its share directory relative to itself, and for libraries in ../lib/plimsoll, so the tree may stand anywhere.
# The .tar.gz carries the shared libraries that a bare system lacks; the .deb depends on the distribution's packages.

# An old-style rpath also covers what the bundled libraries need in turn (OpenBLAS needs libgfortran).
set_target_properties(plimsoll PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/plimsoll")
target_link_options(plimsoll PRIVATE -Wl,--disable-new-dtags)

install(TARGETS plimsoll RUNTIME_DEPENDENCY_SET plimsoll_libraries COMPONENT program)
install(DIRECTORY suites baselines DESTINATION share/plimsoll COMPONENT program OPTIONAL)
install(DIRECTORY tools/gnuplot DESTINATION share/plimsoll COMPONENT program OPTIONAL)
install(PROGRAMS tools/peer-exllamav2 DESTINATION bin COMPONENT program)
install(FILES README.md DESTINATION share/doc/plimsoll COMPONENT program OPTIONAL)

# What ci/gpu runs on a machine with a GPU, from the archive.
if(PLIMSOLL_GPU_TESTS AND PLIMSOLL_HAVE_CUDA AND BUILD_TESTING)
  foreach(test test_cuda test_cuda_quantize)
    set_target_properties(${test} PROPERTIES INSTALL_RPATH "$ORIGIN/../../lib/plimsoll")
    target_link_options(${test} PRIVATE -Wl,--disable-new-dtags)
    install(TARGETS ${test} RUNTIME_DEPENDENCY_SET plimsoll_libraries DESTINATION libexec/plimsoll COMPONENT gpu_tests)
  endforeach()
  install(DIRECTORY engine/tests/data/ DESTINATION libexec/plimsoll/test-data COMPONENT gpu_tests)
  set(CPACK_PLIMSOLL_GPU_TESTS ON)
endif()

# All but the C library's own parts, which belong to the system that runs the program.
install(RUNTIME_DEPENDENCY_SET plimsoll_libraries
  PRE_EXCLUDE_REGEXES "^ld-linux" "^libc\\.so" "^libm\\.so" "^libpthread\\.so" "^libdl\\.so" "^librt\\.so" "^libresolv\\.so" "^libcuda\\.so"
  LIBRARY DESTINATION lib/plimsoll COMPONENT libraries)

set(CPACK_PACKAGE_NAME plimsoll)
set(CPACK_PACKAGE_CONTACT "Plimsoll maintainers <maintainers@plimsoll.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_FILE_NAME "plimsoll-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_GENERATOR "TGZ;DEB")
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "gnuplot-nox | gnuplot")
set(CPACK_DEBIAN_PACKAGE_SECTION devel)
set(CPACK_DEBIAN_FILE_NAME "plimsoll_${PROJECT_VERSION}_amd64.deb")
set(CPACK_PROJECT_CONFIG_FILE "${PROJECT_SOURCE_DIR}/cmake/PackageComponents.cmake")
include(CPack)
