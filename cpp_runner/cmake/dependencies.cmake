# Every library that is not ours. LibTorch comes from the Python package that will run the archives;
# the small ones from the system, or, where it has none, from their release at a pinned hash.

include(FetchContent)

find_package(Python REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import torch; print(torch.utils.cmake_prefix_path)"
  OUTPUT_VARIABLE torch_prefix
  ERROR_VARIABLE torch_error
  RESULT_VARIABLE torch_missing
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(torch_missing)
  message(FATAL_ERROR
    "torchship builds against the installed torch, and ${Python_EXECUTABLE} has none.\n"
    "Run `pip install torch==2.13.0`, then install torchship with `--no-build-isolation`:\n"
    "  pip install --no-build-isolation -e .\n${torch_error}")
endif()
find_package(Torch REQUIRED CONFIG PATHS "${torch_prefix}" NO_DEFAULT_PATH)
# TorchConfig.cmake states no version. The C++ ABI changes between minor releases.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import torch; print(torch.__version__)"
  OUTPUT_VARIABLE torch_version
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT torch_version MATCHES "^2\\.13\\.")
  message(FATAL_ERROR
    "torchship needs torch 2.13, and ${Python_EXECUTABLE} has ${torch_version}: "
    "run `pip install torch==2.13.0`, then install torchship with `--no-build-isolation`.")
endif()
set(TORCHSHIP_TORCH_LIB_DIR "${TORCH_INSTALL_PREFIX}/lib")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" TORCHSHIP_TORCH_MINOR "${torch_version}")

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
