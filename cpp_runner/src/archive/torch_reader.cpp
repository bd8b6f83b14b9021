#include "archive/torch_reader.h"

#include <torchship/error.h>

#include "base/first_line.h"
#include "base/out_of_memory.h"

#include <c10/util/Exception.h>

#include <utility>

namespace torchship {
namespace {

/// Does `action`, and raises what LibTorch says of the zip as an error of ours.
template <typename Action>
auto guarded(const Action& action) -> decltype(action()) {
  try {
    return action();
  } catch (const c10::Error& error) {
    if (says_out_of_memory(error)) throw out_of_memory("reading the zip", error);
    throw ArchiveError("LibTorch cannot read the zip: " +
                       first_line(error.what_without_backtrace()));
  }
}

}  // namespace

size_t MemoryReader::read(uint64_t position, void* buffer, size_t count, const char*) const {
  if (position >= bytes_.size()) return 0;
  return bytes_.copy(static_cast<char*>(buffer), count, position);
}

TorchReader::TorchReader(std::string_view bytes)
    : reader_(guarded([&] {
        return std::make_unique<caffe2::serialize::PyTorchStreamReader>(
            std::make_shared<MemoryReader>(bytes));
      })) {}

TorchRecord TorchReader::read(const std::string& name) const {
  auto [data, size] = guarded([&] { return reader_->getRecord(name); });
  return {std::move(data), size};
}

}  // namespace torchship
