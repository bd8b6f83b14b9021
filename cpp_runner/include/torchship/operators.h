#pragma once

/// Finds and loads the libraries of custom operators that an archive names.
///
/// Loading a library runs its code. An archive therefore names libraries, never files, and a
/// library is searched for only in the folders that the program gives; the library of our own
/// operators also in the folders of torchship itself. Python does the same in
/// `script/runtime/operators.py`.

#include <torchship/hide_macros.h>

#include <torchship/manifest.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// The library of our own operators, built from `cpp_runner/ops/`.
inline constexpr std::string_view own_operator_library = "torchship_ops";

/// The folders in which a library is searched for, in order. For our own library these begin with
/// the folder of the program or shared library that this code is part of, and the folder `lib`
/// beside that folder. The given folders follow, as absolute paths.
std::vector<std::filesystem::path> operator_folders(
    std::string_view library, const std::vector<std::filesystem::path>& given);

/// Loads the libraries of those operators that are not registered yet, each from the first folder
/// that has `lib<name>.so`, and checks that the library registers the operator. Libraries stay
/// loaded until the process ends. Any thread may call this function at any time.
///
/// Raises OperatorError, naming the operator and the library, if a library is in none of the
/// folders, was built with another minor version of LibTorch, cannot be loaded or does not register
/// its operator; also if another file with its name, or a copy of it, is already loaded. Two
/// libraries with different names and contents that register the same operator cannot be detected,
/// and LibTorch ends the process.
void load_operators(const std::vector<CustomOperator>& needed,
                    const std::vector<std::filesystem::path>& folders);

}  // namespace torchship

#include <torchship/restore_macros.h>
