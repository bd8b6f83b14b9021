#pragma once

/// Libraries of custom operators: where they may lie, and loading those that an archive names.
///
/// Loading a library runs its code. An archive therefore names libraries and never files: a name is
/// looked for in the folders that the program gives, our own library also where torchship itself
/// lies, and nowhere else. Python does the same in `script/runtime/operators.py`.

#include <torchship/hide_macros.h>

#include <torchship/manifest.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// The library of our own operators, which `cpp_runner/ops/` builds.
inline constexpr std::string_view own_operator_library = "torchship_ops";

/// The folders, in order, that a library is looked for in. For our own these are first the one of
/// the program or shared library that holds this code, and `../lib` beside it; then, as for all
/// others, those given.
std::vector<std::filesystem::path> operator_folders(
    std::string_view library, const std::vector<std::filesystem::path>& given);

/// Loads the libraries of the operators that are not registered yet, each from the first folder
/// that has `lib<name>.so`, and checks that the operators are there then. What was loaded stays for
/// as long as the process lives. Any thread may call it at any time.
///
/// Raises OperatorError when a library is in none of the folders, cannot be loaded, does not
/// register its operator, or is another file of the name of one that is loaded already, or a copy
/// of it; the message names the operator, the library and the folders looked in. LibTorch ends a
/// process that loads two files of other names and content which register the same operator.
void load_operators(const std::vector<CustomOperator>& needed,
                    const std::vector<std::filesystem::path>& folders);

}  // namespace torchship

#include <torchship/restore_macros.h>
