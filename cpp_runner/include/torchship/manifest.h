#pragma once

/// What an archive says of itself, as plain structs (docs/archive.md, "The manifest").
/// Values are immutable once parsed; any thread may read them.

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

/// One entry of a shape: a fixed size, a symbol (equal wherever it occurs in one call), or any
/// size.
using Dimension = std::variant<std::monostate, std::int64_t, std::string>;

/// A value and its parts. Leaves (tensors, numbers, strings) have a flat name; below a list or dict
/// of any length it holds `*`, which stands for the index or key.
struct Node {
  enum class Kind { tensor, integer, real, boolean, string, tuple, list, dict, optional, none };

  Kind kind = Kind::none;
  std::string name;                             // leaves
  std::optional<at::ScalarType> dtype;          // tensors; nothing: any (plain TorchScript)
  std::optional<std::vector<Dimension>> shape;  // tensors; nothing: any (plain TorchScript)
  std::vector<std::string> keys;                // dicts of fixed keys
  std::vector<Node> items;  // parts; one element where `variadic`; the optional's item
  bool variadic = false;    // lists of any length, dicts of any keys

  bool is_leaf() const { return kind <= Kind::string; }
};

/// The leaves of a node, in order. The pointers live as long as the node.
std::vector<const Node*> leaves(const Node& node);

/// Whether a flat name is an instance of a leaf's name (`*` matches one index or key, without
/// dots).
bool matches(std::string_view pattern, std::string_view name);

/// What a leaf takes: `float32[batch,128]`, `an integer (int64[])`.
std::string describe(const Node& leaf);

struct Argument {
  std::string name;
  bool required = true;
  Node value;
};

/// An output that feeds an input of the next step, and how that input starts when not given.
struct State {
  enum class Start { zeros, absent };

  std::string input;
  std::string output;
  Start start = Start::zeros;
};

/// Agreement is `abs(a - b) <= atol + rtol * abs(b)`, b being the golden value.
struct Tolerance {
  double atol = 0;
  double rtol = 0;
};

struct Method {
  std::string name;
  std::vector<Argument> inputs;
  Node outputs;
  std::vector<State> state;
  std::map<std::string, Tolerance, std::less<>> tolerances;  // by output leaf name

  bool is_state_input(std::string_view leaf) const;
  bool is_state_output(std::string_view leaf) const;
};

struct GoldenCase {
  std::string name;
  std::string method;
  std::int64_t steps = 1;
};

/// An operator that is not torch's, and the library that has it: a plain name, never a path.
struct CustomOperator {
  std::string name;  // namespace::operator
  std::string library;
};

struct Source {
  std::string factory;
  std::string kwargs;  // a JSON object
  std::optional<std::string> git_commit;
  /// Submodules that the factory returned compiled, by dotted name; "" is the module itself.
  std::vector<std::string> compiled;
};

struct Manifest {
  std::int64_t format = 1;
  std::string name;
  std::string version;
  std::string description;
  Source source;
  std::string torch;
  std::string mode;
  std::int64_t parameters = 0;
  std::vector<Method> methods;
  std::vector<GoldenCase> golden;
  std::map<std::string, std::vector<std::string>, std::less<>> labels;
  std::vector<std::pair<std::string, double>> metrics;
  std::vector<CustomOperator> custom_ops;
  std::map<std::string, std::string, std::less<>> records;  // record -> SHA-256, 64 hex digits

  /// The method of that name, or nullptr.
  const Method* find_method(std::string_view wanted) const;
};

inline constexpr std::int64_t archive_format = 1;

/// Parses and validates a manifest record. Raises FormatError for a newer format number, before
/// anything else is looked at, and ArchiveError that names the field for whatever does not fit.
Manifest parse_manifest(std::string_view json);

}  // namespace torchship

#include <torchship/restore_macros.h>
