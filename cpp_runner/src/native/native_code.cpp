#include "native/native_code.h"

#include <torchship/dtype.h>
#include <torchship/error.h>

#include "base/files.h"
#include "base/join.h"
#include "base/load_library.h"

#include <array>
#include <dlfcn.h>
#include <utility>

namespace torchship {
namespace {

using Json = nlohmann::json;

/// Loads the library; if there are trusted keys, the very bytes whose signature was checked.
LoadedLibrary load(const std::filesystem::path& file, const Archive& archive) {
  const auto& keys = archive.options().trusted_keys;
  // dlopen() looks for a name without a slash in the system's folders.
  if (!keys) return load_library(std::filesystem::absolute(file), RTLD_LOCAL);
  const auto bytes = read_file(file);
  if (!bytes) throw ArchiveError(cannot_read(file));
  keys->check(file, *bytes);
  return load_library(*bytes, file.filename().string());
}

NativeInput::Kind kind_from_name(const std::string& name) {
  constexpr std::array<std::pair<std::string_view, NativeInput::Kind>, 5> kinds{{
      {"size", NativeInput::Kind::size},
      {"int", NativeInput::Kind::integer},
      {"float", NativeInput::Kind::real},
      {"bool", NativeInput::Kind::boolean},
      {"tensor", NativeInput::Kind::tensor},
  }};
  for (const auto& [known, kind] : kinds) {
    if (known == name) return kind;
  }
  throw std::invalid_argument("unknown kind of field '" + name + "'");
}

at::ScalarType dtype_of(const Json& field) {
  const auto name = field.at("dtype").get<std::string>();
  const auto dtype = dtype_from_name(name);
  if (!dtype) throw std::invalid_argument("unknown dtype '" + name + "'");
  return *dtype;
}

}  // namespace

NativeCode::NativeCode(const std::filesystem::path& file, const Archive& archive)
    : what_("'" + file.string() + "'"), archive_(archive) {
  if (archive.manifest() == nullptr) {
    throw UsageError("'" + archive.path().string() +
                     "' is plain TorchScript without a manifest: no library is compiled from it");
  }
  LoadedLibrary loaded = load(file, archive);
  if (loaded.handle == nullptr) {
    throw ArchiveError("cannot load " + what_ + ": " + loaded.failure + "; " + compile_it());
  }
  handle_ = loaded.handle;
  const auto tell = reinterpret_cast<const char* (*)()>(dlsym(handle_, "torchship_native_info"));
  if (tell == nullptr) {
    throw ArchiveError(what_ + " is no library that torchship compiled: it has no function " +
                       "'torchship_native_info'; " + compile_it());
  }
  std::string digest;
  try {
    facts_ = Json::parse(tell());
    digest = facts_.at("archive").get<std::string>();
  } catch (const Json::exception& error) {
    throw ArchiveError(what_ + " does not say what it is: " + error.what() + "; " + compile_it());
  }
  const std::string expected = archive.digest();
  if (digest != expected) {
    const auto shown = [](const std::string& text) { return text.substr(0, 16) + "…"; };
    throw ArchiveError(what_ + " was compiled from another archive: expected the digest " +
                       shown(expected) + ", got " + shown(digest) + "; " + compile_it());
  }
}

const Method& NativeCode::signature(const std::string& name) const {
  const Manifest& manifest = *archive_.manifest();
  const Method* method = manifest.find_method(name);
  if (method != nullptr) return *method;
  throw UsageError("model '" + model() + "' has no method '" + name + "'; it has " +
                   join(manifest.methods, ", ", &Method::name));
}

NativeMethod NativeCode::method(const std::string& name) const {
  NativeMethod method;
  std::string function_name;
  try {
    const Json& known = facts_.at("methods").at(name);
    for (const Json& field : known.at("inputs")) {
      method.inputs.push_back({.kind = kind_from_name(field.at("kind").get<std::string>()),
                               .leaf = field.at("leaf").get<std::string>(),
                               .optional = field.at("optional").get<bool>()});
    }
    for (const Json& field : known.at("outputs")) {
      method.outputs.push_back({.leaf = field.at("leaf").get<std::string>(),
                                .dtype = dtype_of(field),
                                .rank = field.at("rank").get<std::size_t>()});
    }
    function_name = facts_.at("prefix").get<std::string>() + "_" + name;
  } catch (const std::exception& error) {  // Json::exception, or one of ours above
    throw ArchiveError(what_ + " does not describe its method '" + name + "': " + error.what() +
                       "; " + compile_it());
  }
  method.compute = reinterpret_cast<decltype(method.compute)>(function(function_name));
  method.workspace_size = reinterpret_cast<decltype(method.workspace_size)>(
      function(function_name + "_workspace_size"));
  method.shape = reinterpret_cast<decltype(method.shape)>(function(function_name + "_shape"));
  return method;
}

void* NativeCode::function(const std::string& name) const {
  void* found = dlsym(handle_, name.c_str());
  if (found == nullptr) {
    throw ArchiveError(what_ + " has no function '" + name + "'; " + compile_it());
  }
  return found;
}

std::string NativeCode::compile_it() const {
  return "make it with `torchship compile " + archive_.path().string() + " --target lib -o " +
         what_.substr(1, what_.size() - 2) + "`";
}

}  // namespace torchship
