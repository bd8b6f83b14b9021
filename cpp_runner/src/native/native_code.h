#pragma once

/// A compiled archive in this process: its functions, and what it says of their structs. Internal.

#include <torchship/archive.h>
#include <torchship/manifest.h>

#include <c10/core/ScalarType.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace torchship {

/// A field of the C structs of inputs and outputs, all of which are 8 bytes wide.
union NativeWord {
  std::int64_t integer;
  double number;
  const void* pointer;
};
static_assert(sizeof(NativeWord) == 8);

/// A field of the struct of inputs.
struct NativeInput {
  enum class Kind { size, integer, real, boolean, tensor };

  Kind kind = Kind::tensor;
  std::string leaf;       // flat name; of a size its symbol, or `<flat name>.<axis>`
  bool optional = false;  // of a tensor: it may be a null pointer
};

/// An output's field of the struct of outputs. Two more follow them: `message`, `message_size`.
struct NativeOutput {
  std::string leaf;
  at::ScalarType dtype = at::kFloat;
  std::size_t rank = 0;
};

/// One method: its structs and its functions.
struct NativeMethod {
  std::vector<NativeInput> inputs;
  std::vector<NativeOutput> outputs;

  /// Computes; null for `weights` stands for those of the archive. Returns a status.
  int (*compute)(const void* weights, const NativeWord* in, const NativeWord* out,
                 void* workspace) = nullptr;
  /// The bytes of workspace that a call with these inputs needs.
  std::size_t (*workspace_size)(const NativeWord* in) = nullptr;
  /// Stores the shape of an output, by its index, and returns its rank.
  int (*shape)(const NativeWord* in, int output, std::int64_t* shape) = nullptr;
};

/// A loaded library that belongs to an archive. Immutable.
class NativeCode {
 public:
  /// Raises what NativeLibrary's constructor raises.
  NativeCode(const std::filesystem::path& file, const Archive& archive);

  const std::string& model() const { return archive_.name(); }

  /// The signature of a method. Raises UsageError if there is no such method.
  const Method& signature(const std::string& name) const;

  /// A method of the library. Raises ArchiveError if it has no such method.
  NativeMethod method(const std::string& name) const;

 private:
  void* function(const std::string& name) const;
  std::string compile_it() const;

  std::string what_;  // the file, for messages
  Archive archive_;
  void* handle_ = nullptr;
  nlohmann::json facts_;
};

}  // namespace torchship
