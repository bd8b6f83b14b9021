#pragma once

/// Zip archives in memory, over libzip. Internal: an npz and a TorchShip archive are both zips.
/// Neither class may be used by two threads at once.

#include <zip.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// A zip that is damaged or uses what we do not accept; callers turn it into an error of their own
/// kind.
class ZipError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct ZipEntry {
  std::string name;
  std::uint64_t size = 0;  // inflated, bytes
};

/// Reads entries with their CRC-32 checked. Refuses what is no zip, names that are not UTF-8 or
/// occur twice, encryption, methods other than stored and deflate, and more than 4 GiB inflated.
class ZipReader {
 public:
  /// `bytes` must outlive the reader.
  explicit ZipReader(std::string_view bytes);

  const std::vector<ZipEntry>& entries() const { return entries_; }

  /// The inflated bytes of an entry.
  std::string read(std::size_t index) const;

  /// Likewise, given to `sink` piece by piece: an entry may be as large as a model's weights.
  void read(std::size_t index, const std::function<void(std::string_view)>& sink) const;

 private:
  struct Discard {
    void operator()(zip_t* archive) const { zip_discard(archive); }
  };
  std::unique_ptr<zip_t, Discard> archive_;
  std::vector<ZipEntry> entries_;
};

struct ZipItem {
  std::string name;
  std::string bytes;
};

/// A zip of stored entries in this order; the same items give the same bytes.
std::string write_zip(const std::vector<ZipItem>& items);

}  // namespace torchship
