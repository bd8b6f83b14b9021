#pragma once

/// Standard output, which belongs to the answers. The program is single-threaded outside LibTorch.

#include <string_view>

namespace torchship::app {

/// Writes to standard output; raises WriteError when it cannot be written to. A reader that has
/// closed the pipe (`inspect x.pt | head -1`) is no error: the rest is dropped.
void print(std::string_view text);

/// Keeps standard output for print(): what anything else in this process writes there (such as a
/// library of operators) goes to standard error from now on, and never among the answers.
void keep_standard_output();

/// Asks the file under print() whether all of it has arrived: some, on a network, say so only when
/// they are closed. Raises WriteError. What is printed later is still written.
void close_output();

/// The descriptor that print() writes to.
int output_descriptor();

/// Whether the reader has closed the pipe: a caller that goes on printing may stop.
bool reader_is_gone();

}  // namespace torchship::app
