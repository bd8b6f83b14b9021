#pragma once

/// LibTorch's own zip reader, on bytes in memory. Internal.

#include <c10/core/Allocator.h>
#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace torchship {

/// Bytes in memory for LibTorch: those that were checked, and not a file that may have changed
/// since. The bytes must outlive it.
class MemoryReader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit MemoryReader(std::string_view bytes) : bytes_(bytes) {}

  size_t size() const override { return bytes_.size(); }
  size_t read(uint64_t position, void* buffer, size_t count, const char* what) const override;

 private:
  std::string_view bytes_;
};

/// The bytes of a record, in memory that LibTorch has made.
class TorchRecord {
 public:
  TorchRecord(at::DataPtr data, std::size_t size) : data_(std::move(data)), size_(size) {}

  std::string_view bytes() const { return {static_cast<const char*>(data_.get()), size_}; }

 private:
  at::DataPtr data_;
  std::size_t size_;
};

/// What LibTorch finds in a zip. Raises ArchiveError for what it cannot read, OutOfMemoryError.
class TorchReader {
 public:
  /// `bytes` must outlive the reader.
  explicit TorchReader(std::string_view bytes);

  TorchRecord read(const std::string& name) const;

 private:
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader_;
};

}  // namespace torchship
