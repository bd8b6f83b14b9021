#include <torchship/error.h>
#include <torchship/operators.h>

#include "base/files.h"
#include "base/join.h"
#include "base/load_library.h"
#include "runtime/libtorch.h"

#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <dlfcn.h>
#include <fstream>
#include <link.h>
#include <mutex>
#include <optional>
#include <system_error>

namespace torchship {
namespace {

bool is_registered(const std::string& name) {
  return !torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name)).empty();
}

/// The folder of the shared library or program that this code is in.
std::optional<std::filesystem::path> own_folder() {
  Dl_info info{};
  void* image = nullptr;
  if (dladdr1(reinterpret_cast<const void*>(&is_registered), &info, &image, RTLD_DL_LINKMAP) == 0) {
    return std::nullopt;
  }
  const std::string name = static_cast<const link_map*>(image)->l_name;
  std::error_code error;
  const auto file = std::filesystem::canonical(name.empty() ? "/proc/self/exe" : name, error);
  if (error) return std::nullopt;
  return file.parent_path();
}

std::filesystem::path find(const std::string& library,
                           const std::vector<std::filesystem::path>& given) {
  const std::string file = "lib" + library + ".so";
  const auto folders = operator_folders(library, given);
  for (const auto& folder : folders) {
    std::error_code error;
    if (std::filesystem::is_regular_file(folder / file, error)) return folder / file;
  }
  const auto quoted = [](const auto& folder) { return "'" + folder.string() + "'"; };
  throw OperatorError("there is no '" + file + "'" + (folders.empty() ? "" : " in ") +
                      join(folders, ", ", quoted) +
                      "; folders of operator libraries are given with --operators, "
                      "TORCHSHIP_OPERATORS or Options::operators");
}

std::vector<std::filesystem::path> loaded_files() {
  std::vector<std::filesystem::path> files;
  const auto add = [](dl_phdr_info* info, std::size_t, void* found) {
    if (*info->dlpi_name != '\0') {  // the program itself has no name
      static_cast<std::vector<std::filesystem::path>*>(found)->emplace_back(info->dlpi_name);
    }
    return 0;
  };
  dl_iterate_phdr(add, &files);
  return files;
}

bool same_content(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  const auto size = std::filesystem::file_size(a, error);
  if (error || std::filesystem::file_size(b, error) != size || error) return false;
  return read_file(a) == read_file(b);
}

/// Refuses a file that has the name or the content of one that this process has loaded. LibTorch
/// ends a process in which two files register the same operator, and what other files register is
/// not known before they are loaded.
void refuse_another(const std::filesystem::path& file) {
  const auto files = loaded_files();
  std::error_code ignored;
  const auto is_it = [&](const auto& loaded) {
    return std::filesystem::equivalent(loaded, file, ignored);
  };
  if (std::ranges::any_of(files, is_it)) return;
  for (const auto& loaded : files) {
    const bool same_name = loaded.filename() == file.filename();
    if (!same_name && !same_content(loaded, file)) continue;
    throw OperatorError("'" + file.string() + "' is " +
                        (same_name ? "another file of the name" : "a copy") +
                        " of a library that is loaded already, '" + loaded.string() +
                        "': two files cannot register the same operators in one process");
  }
}

/// Refuses a library beside which a file says that it was built with another minor of LibTorch: it
/// may well load, and compute nonsense.
void refuse_another_libtorch(const std::filesystem::path& file) {
  std::ifstream record(std::filesystem::path(file).replace_filename("libtorch-version"));
  std::string minor;
  if (!(record >> minor) || minor == libtorch_minor()) return;
  throw OperatorError("'" + file.string() + "' was built with torch " + minor +
                      ", and this is LibTorch " + libtorch_minor() +
                      ": run `pip install 'torch==" + minor + ".*'`, or build it again");
}

void load(const CustomOperator& needed, const std::vector<std::filesystem::path>& folders) {
  const std::filesystem::path file = find(needed.library, folders);
  refuse_another_libtorch(file);
  refuse_another(file);
  const LoadedLibrary loaded = load_library(file, RTLD_LOCAL);
  if (loaded.handle == nullptr) {
    throw OperatorError("cannot load '" + file.string() + "': " + loaded.failure);
  }
  if (!is_registered(needed.name)) {
    throw OperatorError("'" + file.string() + "' does not register it");
  }
}

}  // namespace

std::vector<std::filesystem::path> operator_folders(
    std::string_view library, const std::vector<std::filesystem::path>& given) {
  std::vector<std::filesystem::path> folders;
  if (library == own_operator_library) {
    if (const auto own = own_folder()) folders = {*own, own->parent_path() / "lib"};
  }
  for (const auto& folder : given) folders.push_back(std::filesystem::absolute(folder));
  return folders;
}

void load_operators(const std::vector<CustomOperator>& needed,
                    const std::vector<std::filesystem::path>& folders) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  for (const CustomOperator& op : needed) {
    if (is_registered(op.name)) continue;
    try {
      load(op, folders);
    } catch (const OperatorError& error) {
      throw OperatorError("it needs the operator '" + op.name + "' of the library '" + op.library +
                          "': " + error.what());
    }
  }
}

}  // namespace torchship
