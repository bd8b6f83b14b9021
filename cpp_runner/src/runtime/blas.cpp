#include "runtime/blas.h"

#include <ATen/Context.h>

#include <array>
#include <dlfcn.h>
#include <filesystem>
#include <memory>
#include <system_error>

namespace torchship {
namespace {

// Some of each kind: a library may have only BLAS, or only LAPACK, or only C's names.
constexpr std::array functions{"sgemm_",  "dgemm_",      "sgemv_",      "sdot_",      "saxpy_",
                               "strsm_",  "cblas_sgemm", "cblas_dgemm", "sgetrf_",    "spotrf_",
                               "sgesdd_", "ssyevd_",     "cblas_sdot",  "cblas_saxpy"};

std::string file_of(const void* address) {
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) return "";
  return info.dli_fname;
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return a == b || std::filesystem::equivalent(a, b, ignored);
}

std::string find_foreign_blas() {
  const std::string torch = file_of(reinterpret_cast<const void*>(&at::globalContext));
  struct Close {
    void operator()(void* library) const { dlclose(library); }
  };
  const std::unique_ptr<void, Close> own(dlopen(torch.c_str(), RTLD_LAZY | RTLD_NOLOAD));
  if (!own) return "";  // linked into the program: nothing comes before it
  for (const char* function : functions) {
    // In LibTorch and what it was linked with, and as the linker binds the name in this process.
    const std::string meant = file_of(dlsym(own.get(), function));
    const std::string bound = file_of(dlsym(RTLD_DEFAULT, function));
    if (!meant.empty() && !bound.empty() && !same_file(meant, bound)) return bound;
  }
  return "";
}

}  // namespace

std::string foreign_blas() {
  static const std::string found = find_foreign_blas();  // bound once, when LibTorch was loaded
  return found;
}

std::string foreign_blas_note() {
  const std::string file = foreign_blas();
  if (file.empty()) return "";
  return "matrix products are computed by '" + file +
         "', which this process has loaded before LibTorch's own BLAS: they round otherwise; load "
         "that library with RTLD_LOCAL, or do without it";
}

}  // namespace torchship
