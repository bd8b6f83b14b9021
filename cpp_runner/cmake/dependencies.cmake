# Every library that is not ours. LibTorch comes from the Python package that will run the archives;
# the small ones from the system, or, where it has none, from their release at a pinned hash.

include(FetchContent)

include("${CMAKE_CURRENT_LIST_DIR}/libtorch.cmake")
find_package(Python REQUIRED COMPONENTS Interpreter)
torchship_libtorch_of_python("${Python_EXECUTABLE}" TORCHSHIP_LIBTORCH)
torchship_libtorch_minor("${TORCHSHIP_LIBTORCH}" TORCHSHIP_TORCH_MINOR)
if(NOT TORCHSHIP_TORCH_MINOR IN_LIST TORCHSHIP_TORCH_MINORS)
  set(found "none")
  if(TORCHSHIP_TORCH_MINOR)
    set(found "torch ${TORCHSHIP_TORCH_MINOR}")
  endif()
  list(JOIN TORCHSHIP_TORCH_MINORS ", " minors)
  string(CONCAT message
    "torchship builds against an installed torch (one of ${minors}), and ${Python_EXECUTABLE} has ${found}: "
    "run `pip install torch==${TORCHSHIP_TORCH_DEFAULT} 'scikit-build-core>=1.1' cmake ninja`, "
    "then `pip install --no-build-isolation -e .`")
  message(FATAL_ERROR " ${message}")
endif()
torchship_import_libtorch("${TORCHSHIP_LIBTORCH}")

find_package(OpenSSL 3.0 REQUIRED COMPONENTS Crypto)
# Not libzip's own CMake package: Debian's names executables that other packages hold.
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBZIP REQUIRED IMPORTED_TARGET libzip>=1.7)
find_package(PNG 1.6 REQUIRED)

FetchContent_Declare(nlohmann_json
  URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
  URL_HASH SHA256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
  EXCLUDE_FROM_ALL SYSTEM
  FIND_PACKAGE_ARGS 3.11)
FetchContent_Declare(CLI11
  URL https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.5.0.tar.gz
  URL_HASH SHA256=17e02b4cddc2fa348e5dbdbb582c59a3486fa2b2433e70a0c3bacb871334fd55
  EXCLUDE_FROM_ALL SYSTEM
  FIND_PACKAGE_ARGS 2.1)
FetchContent_MakeAvailable(nlohmann_json CLI11)

if(TORCHSHIP_BUILD_TESTS)
  set(INSTALL_GTEST OFF)
  FetchContent_Declare(GTest
    URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
    URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7
    EXCLUDE_FROM_ALL SYSTEM
    FIND_PACKAGE_ARGS 1.12 NAMES GTest)
  FetchContent_MakeAvailable(GTest)
endif()
