# What a program that links torchship needs, laid out twice:
#   cmake --install BUILD --prefix X     X/bin, X/include, X/lib
#   pip install (component `wheel`)      the same three inside the Python package, so that
#                                        `torchship cmake-prefix` can print their folder
# Both hold their own CMake package, lib/cmake/torchship, and lib/pkgconfig/torchship-c.pc.
# No file in them names a folder of the machine that has built them: LibTorch is in the package torch beside
# ours, or where the link lib/torchship/libtorch of a prefix leads.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_files "${CMAKE_CURRENT_BINARY_DIR}/package")
# Below 1.0 a minor version may change the interface.
write_basic_package_version_file("${package_files}/torchship-config-version.cmake"
  COMPATIBILITY SameMinorVersion)

set(libtorch_link torchship/libtorch)
set(libtorch_of_wheel "$ORIGIN/../../../torch/lib")
set_target_properties(torchship-runner PROPERTIES
  INSTALL_RPATH "${libtorch_of_wheel};$ORIGIN/../${CMAKE_INSTALL_LIBDIR}/${libtorch_link}")
set_target_properties(torchship_c torchship_ops PROPERTIES
  INSTALL_RPATH "${libtorch_of_wheel};$ORIGIN/${libtorch_link}")

# torchship_install(NAME BIN INCLUDE LIB [EXCLUDE_FROM_ALL]): NAME is the component.
function(torchship_install name bin include lib)
  set(package "${lib}/cmake/torchship")
  install(TARGETS torchship-runner RUNTIME DESTINATION "${bin}" COMPONENT ${name} ${ARGN})
  install(TARGETS torchship EXPORT torchship-cxx-${name}
    ARCHIVE DESTINATION "${lib}" COMPONENT ${name} ${ARGN}
    INCLUDES DESTINATION "${include}")
  install(TARGETS torchship_c EXPORT torchship-c-${name}
    LIBRARY DESTINATION "${lib}" COMPONENT ${name} ${ARGN}
    INCLUDES DESTINATION "${include}")
  install(TARGETS torchship_ops torchship_snake_python
    LIBRARY DESTINATION "${lib}" COMPONENT ${name} ${ARGN})
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/libtorch-version"
    DESTINATION "${lib}" COMPONENT ${name} ${ARGN})
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/cpp_runner/include/torchship"
    DESTINATION "${include}" COMPONENT ${name} ${ARGN} FILES_MATCHING PATTERN "*.h")

  foreach(language IN ITEMS cxx c)
    install(EXPORT torchship-${language}-${name} FILE torchship-${language}-targets.cmake
      NAMESPACE torchship:: DESTINATION "${package}" COMPONENT ${name} ${ARGN})
  endforeach()
  configure_package_config_file(
    "${PROJECT_SOURCE_DIR}/cpp_runner/cmake/torchship-config.cmake.in"
    "${package_files}/${name}/torchship-config.cmake"
    INSTALL_DESTINATION "${package}"
    NO_SET_AND_CHECK_MACRO)
  install(FILES
    "${package_files}/${name}/torchship-config.cmake"
    "${package_files}/torchship-config-version.cmake"
    "${PROJECT_SOURCE_DIR}/cpp_runner/cmake/libtorch.cmake"
    DESTINATION "${package}" COMPONENT ${name} ${ARGN})

  cmake_path(GET bin PARENT_PATH root)
  cmake_path(RELATIVE_PATH include BASE_DIRECTORY "${root}" OUTPUT_VARIABLE TORCHSHIP_INCLUDE)
  cmake_path(RELATIVE_PATH root BASE_DIRECTORY "${lib}/pkgconfig" OUTPUT_VARIABLE TORCHSHIP_PREFIX)
  configure_file("${PROJECT_SOURCE_DIR}/cpp_runner/cmake/torchship-c.pc.in"
    "${package_files}/${name}/torchship-c.pc" @ONLY)
  install(FILES "${package_files}/${name}/torchship-c.pc"
    DESTINATION "${lib}/pkgconfig" COMPONENT ${name} ${ARGN})
endfunction()

torchship_install(prefix
  "${CMAKE_INSTALL_BINDIR}" "${CMAKE_INSTALL_INCLUDEDIR}" "${CMAKE_INSTALL_LIBDIR}")
install(CODE "
  set(link \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/${libtorch_link}\")
  cmake_path(GET link PARENT_PATH folder)
  file(MAKE_DIRECTORY \"\${folder}\")
  file(CREATE_LINK \"${TORCHSHIP_LIBTORCH}/lib\" \"\${link}\" SYMBOLIC)"
  COMPONENT prefix)
set(inside torchship/cpp_runner)
torchship_install(wheel "${inside}/bin" "${inside}/include" "${inside}/lib" EXCLUDE_FROM_ALL)

# Projects to copy.
set(examples DIRECTORY "${PROJECT_SOURCE_DIR}/cpp_runner/examples")
install(${examples} DESTINATION "${CMAKE_INSTALL_DATADIR}/torchship" COMPONENT prefix
  PATTERN __pycache__ EXCLUDE)
install(${examples} DESTINATION "${inside}" COMPONENT wheel EXCLUDE_FROM_ALL
  PATTERN __pycache__ EXCLUDE)

if(DEFINED SKBUILD_SCRIPTS_DIR)
  install(PROGRAMS "${PROJECT_SOURCE_DIR}/cpp_runner/torchship-runner.sh"
    DESTINATION "${SKBUILD_SCRIPTS_DIR}" RENAME torchship-runner
    COMPONENT wheel EXCLUDE_FROM_ALL)
endif()
