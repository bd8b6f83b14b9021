# LibTorch as it lies in the Python package torch, or in LibTorch's own archive: the target
# torchship::libtorch. The build includes this file, and so does the installed package.
#
# It is not torch's own package, find_package(Torch): in every build with CUDA that one wants a CUDA
# toolkit to be installed. What we link is the same in every build: libtorch_cpu, libc10 and headers.

# The C++ ABI changes between minor releases. pyproject.toml names the same range.
set(TORCHSHIP_TORCH_MINORS 2.13 2.14 2.15)
set(TORCHSHIP_TORCH_DEFAULT 2.13.0)

# Where torch is in the Python of that name; empty if it has none. To import torch takes seconds.
function(torchship_libtorch_of_python python folder)
  execute_process(
    COMMAND "${python}" -c "import importlib.util; print(importlib.util.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE found
    ERROR_QUIET
    RESULT_VARIABLE failed
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed)
    set(found "")
  endif()
  set(${folder} "${found}" PARENT_SCOPE)
endfunction()

# The minor version of the LibTorch in a folder, such as 2.13; empty if there is none.
function(torchship_libtorch_minor folder minor)
  set(header "${folder}/include/torch/headeronly/version.h")
  set(version "")
  if(EXISTS "${header}")
    file(STRINGS "${header}" version REGEX "define TORCH_VERSION_(MAJOR|MINOR) ")
    string(REGEX REPLACE "#define [A-Z_]+ ([0-9]+)" "\\1" version "${version}")
    list(JOIN version "." version)
  endif()
  set(${minor} "${version}" PARENT_SCOPE)
endfunction()

# Defines torchship::libtorch from the LibTorch in a folder.
function(torchship_import_libtorch folder)
  cmake_path(NORMAL_PATH folder)
  foreach(library IN ITEMS c10 torch_cpu)
    add_library(torchship::${library} SHARED IMPORTED GLOBAL)
    set_target_properties(torchship::${library} PROPERTIES
      IMPORTED_LOCATION "${folder}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}${library}${CMAKE_SHARED_LIBRARY_SUFFIX}")
  endforeach()
  add_library(torchship::libtorch INTERFACE IMPORTED GLOBAL)
  set_target_properties(torchship::libtorch PROPERTIES
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_INCLUDE_DIRECTORIES "${folder}/include;${folder}/include/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES "torchship::torch_cpu;torchship::c10")
endfunction()
