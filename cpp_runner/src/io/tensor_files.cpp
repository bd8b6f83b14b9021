// npz, and whole tensor files by their extension.

#include <torchship/error.h>
#include <torchship/tensor_io.h>

#include "base/files.h"
#include "io/zip_file.h"

#include <unistd.h>

namespace torchship {
namespace {

constexpr std::string_view npy_suffix = ".npy";

[[noreturn]] void unknown_extension(const std::filesystem::path& path) {
  throw UsageError("'" + path.string() +
                   "': expected a name that ends in .npz, .npy or .safetensors");
}

void check_extension(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  if (extension != ".npz" && extension != ".npy" && extension != ".safetensors") {
    unknown_extension(path);
  }
}

}  // namespace

TensorMap read_npz(std::string_view bytes) {
  try {
    const ZipReader zip(bytes);
    TensorMap tensors;
    for (std::size_t i = 0; i < zip.entries().size(); ++i) {
      std::string name = zip.entries()[i].name;
      if (!name.ends_with(npy_suffix)) throw InputError("npz: '" + name + "' is no .npy array");
      name.resize(name.size() - npy_suffix.size());
      try {
        tensors.emplace(name, read_npy(zip.read(i)));
      } catch (const InputError& error) {
        throw InputError("npz: '" + name + "': " + error.what());
      }
    }
    return tensors;
  } catch (const ZipError& error) {
    throw InputError(std::string("npz: ") + error.what());
  }
}

std::string write_npz(const TensorMap& tensors) {
  if (tensors.empty()) throw EncodingError("npz: there is no tensor to write");
  std::vector<ZipItem> items;
  items.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    items.push_back({name + std::string(npy_suffix), write_npy(tensor)});
  }
  try {
    return write_zip(items);
  } catch (const ZipError& error) {
    throw EncodingError(std::string("npz: ") + error.what());
  }
}

TensorMap read_tensors(const std::filesystem::path& path, const std::string& npy_name) {
  check_extension(path);
  const std::string extension = path.extension().string();
  const auto bytes = read_file(path);
  if (!bytes) throw InputError(cannot_read(path));
  try {
    if (extension == ".npz") return read_npz(*bytes);
    if (extension == ".safetensors") return read_safetensors(*bytes);
    return {{npy_name, read_npy(*bytes)}};
  } catch (const InputError& error) {
    throw InputError("'" + path.string() + "': " + error.what());
  }
}

void check_output_path(const std::filesystem::path& path) {
  check_extension(path);
  // The slash at its end makes access() refuse a file that is no folder.
  const std::filesystem::path folder = (path.has_parent_path() ? path.parent_path() : ".") / "";
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw WriteError(cannot_write(path));
  }
}

void write_tensors(const std::filesystem::path& path, const TensorMap& tensors) {
  const std::string extension = path.extension().string();
  if (extension == ".npz") {
    write_file_atomically(path, write_npz(tensors));
  } else if (extension == ".safetensors") {
    write_file_atomically(path, write_safetensors(tensors));
  } else if (extension == ".npy") {
    if (tensors.size() != 1) {
      throw UsageError("'" + path.string() + "': .npy holds one tensor, and there are " +
                       std::to_string(tensors.size()) + ": write .npz or .safetensors");
    }
    write_file_atomically(path, write_npy(tensors.begin()->second));
  } else {
    unknown_extension(path);
  }
}

}  // namespace torchship
