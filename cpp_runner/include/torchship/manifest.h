#pragma once

/// The manifest of an archive as plain structs; docs/archive.md, "The manifest", describes the
/// fields. Nothing changes a manifest after it is parsed, so any thread may read it.

#include <torchship/hide_macros.h>

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace torchship {

/// The symbol of the dimension along which rows are independent of each other.
inline constexpr std::string_view batch_symbol = "batch";

/// One dimension of a shape: any size, a fixed size, or a symbol. A symbol has the same size
/// wherever it occurs in one call.
using Dimension = std::variant<std::monostate, std::int64_t, std::string>;

/// The type of an input or output, as a tree. Leaves (tensors, numbers, strings) have a flat name.
/// Below a list or dict of any length, the flat name has a `*` in place of the index or key.
struct Node {
  enum class Kind { tensor, integer, real, boolean, string, tuple, list, dict, optional, none };

  Kind kind = Kind::none;
  std::string name;                             // of a leaf: its flat name
  std::optional<at::ScalarType> dtype;          // of a tensor; nothing: any (plain TorchScript)
  std::optional<std::vector<Dimension>> shape;  // of a tensor; nothing: any (plain TorchScript)
  std::vector<std::string> keys;                // of a dict with fixed keys
  std::vector<Node> items;                      // the parts; a single one if `variadic` or optional
  bool variadic = false;                        // a list of any length, or a dict with any keys

  bool is_leaf() const { return kind <= Kind::string; }
};

/// The leaves of a node, in order. The pointers are valid as long as the node.
std::vector<const Node*> leaves(const Node& node);

/// Whether `name` is an instance of a leaf's name: each `*` in `pattern` stands for one index or
/// key, which has no dots.
bool matches(std::string_view pattern, std::string_view name);

/// The values that a leaf takes, for messages: `float32[batch,128]`, `an integer (int64[])`.
std::string describe(const Node& leaf);

/// One argument of a method.
struct Argument {
  std::string name;
  bool required = true;
  Node value;
};

/// An output that becomes an input of the next step; `start` is the input's value at the first
/// step.
struct State {
  enum class Start { zeros, absent };

  std::string input;
  std::string output;
  Start start = Start::zeros;
};

/// How far a runtime may be from a golden value: `abs(a - b) <= atol + rtol * abs(b)`, where `b` is
/// the golden value.
struct Tolerance {
  double atol = 0;
  double rtol = 0;
};

/// One method of the module, with its signature.
struct Method {
  std::string name;
  std::vector<Argument> inputs;
  Node outputs;
  std::vector<State> state;
  std::map<std::string, Tolerance, std::less<>> tolerances;  // by an output leaf's name

  bool is_state_input(std::string_view leaf) const;
  bool is_state_output(std::string_view leaf) const;
};

/// One golden case: which method it calls, and how often. Archive::golden() has its tensors.
struct GoldenCase {
  std::string name;
  std::string method;
  std::int64_t steps = 1;
};

/// An operator that torch does not have, and the library that registers it: a name, never a path.
struct CustomOperator {
  std::string name;  // namespace::operator
  std::string library;
};

/// How the eager module was created.
struct Source {
  std::string factory;  // `module:function`
  std::string kwargs;   // the function's arguments, a JSON object
  std::optional<std::string> git_commit;
  /// Dotted names of the submodules that the factory returned compiled; "" is the module itself.
  std::vector<std::string> compiled;
};

/// A whole manifest.
struct Manifest {
  std::int64_t format = 1;
  std::string name;
  std::string version;
  std::string description;
  Source source;
  std::string torch;  // the version that exported the archive
  std::string mode;   // `script` or `trace`
  std::int64_t parameters = 0;
  std::vector<Method> methods;
  std::vector<GoldenCase> golden;
  std::map<std::string, std::vector<std::string>, std::less<>> labels;  // by output
  std::vector<std::pair<std::string, double>> metrics;
  std::vector<CustomOperator> custom_ops;
  std::map<std::string, std::string, std::less<>> records;  // SHA-256 by record, 64 hex digits

  /// The method with this name, or nullptr. The pointer is valid as long as the manifest.
  const Method* find_method(std::string_view wanted) const;
};

/// The newest archive format that this library reads.
inline constexpr std::int64_t archive_format = 1;

/// Parses and validates a manifest record. Raises FormatError for a newer format, before it looks
/// at anything else, and ArchiveError naming the field that is invalid.
Manifest parse_manifest(std::string_view json);

}  // namespace torchship

#include <torchship/restore_macros.h>
