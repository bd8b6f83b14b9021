# What a program that links torchship needs, laid out twice:
#   cmake --install BUILD --prefix X     X/bin, X/include, X/lib
#   pip install (component `wheel`)      the same three inside the Python package, so that
#                                        `torchship cmake-prefix` can print their folder
# Both hold their own CMake package, lib/cmake/torchship.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_files "${CMAKE_CURRENT_BINARY_DIR}/package")
# Below 1.0 a minor version may change the interface.
write_basic_package_version_file("${package_files}/torchship-config-version.cmake"
  COMPATIBILITY SameMinorVersion)

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
  install(TARGETS torchship_ops LIBRARY DESTINATION "${lib}" COMPONENT ${name} ${ARGN})
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
    DESTINATION "${package}" COMPONENT ${name} ${ARGN})
endfunction()

torchship_install(prefix
  "${CMAKE_INSTALL_BINDIR}" "${CMAKE_INSTALL_INCLUDEDIR}" "${CMAKE_INSTALL_LIBDIR}")
set(inside torchship/cpp_runner)
torchship_install(wheel "${inside}/bin" "${inside}/include" "${inside}/lib" EXCLUDE_FROM_ALL)
