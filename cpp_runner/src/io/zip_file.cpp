#include "io/zip_file.h"

#include "base/bytes.h"

#include <algorithm>
#include <array>
#include <new>
#include <set>

namespace torchship {
namespace {

constexpr std::uint64_t max_inflated = std::uint64_t{4} << 30U;
constexpr std::size_t piece = std::size_t{1} << 20U;

std::string message_of(zip_error_t* error) {
  if (zip_error_code_zip(error) == ZIP_ER_MEMORY) throw std::bad_alloc();
  std::string text = zip_error_strerror(error);
  zip_error_fini(error);
  return text;
}

std::string message_of(int code) {
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  return message_of(&error);
}

struct CloseFile {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

}  // namespace

ZipReader::ZipReader(std::string_view bytes) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  if (source == nullptr) throw ZipError(message_of(&error));
  archive_.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
  if (!archive_) {
    zip_source_free(source);
    throw ZipError(message_of(&error));
  }
  zip_error_fini(&error);

  std::set<std::string_view> names;
  std::uint64_t total = 0;
  const auto count = static_cast<zip_uint64_t>(zip_get_num_entries(archive_.get(), 0));
  entries_.reserve(count);  // `names` holds views into it
  for (zip_uint64_t index = 0; index < count; ++index) {
    zip_stat_t stat;
    zip_stat_init(&stat);
    if (zip_stat_index(archive_.get(), index, ZIP_FL_ENC_RAW, &stat) != 0) {
      throw ZipError("entry " + std::to_string(index) +
                     " of its directory is damaged: " + zip_strerror(archive_.get()));
    }
    entries_.push_back({stat.name, stat.size});
    const std::string& name = entries_.back().name;
    const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
    if (!is_utf8(name) || std::ranges::any_of(name, control)) {
      throw ZipError("the name of entry " + std::to_string(index) +
                     " is not UTF-8 or holds control characters");
    }
    if (!names.insert(name).second) throw ZipError("the record '" + name + "' occurs twice");
    if (stat.encryption_method != ZIP_EM_NONE) {
      throw ZipError("the record '" + name + "' is encrypted");
    }
    if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE) {
      throw ZipError("the record '" + name + "' is compressed with method " +
                     std::to_string(stat.comp_method) + ", expected stored or deflate");
    }
    if (stat.size > max_inflated - total) throw ZipError("its records inflate to more than 4 GiB");
    total += stat.size;
  }
}

std::string ZipReader::read(std::size_t index) const {
  std::string bytes;
  read(index, [&bytes](std::string_view part) { bytes += part; });
  return bytes;
}

void ZipReader::read(std::size_t index, const std::function<void(std::string_view)>& sink) const {
  const ZipEntry& entry = entries_.at(index);
  const auto damaged = [&entry](const std::string& why) {
    return ZipError("the record '" + entry.name + "' is damaged: " + why);
  };
  const std::unique_ptr<zip_file_t, CloseFile> file(zip_fopen_index(archive_.get(), index, 0));
  if (!file) throw damaged(zip_strerror(archive_.get()));
  std::uint64_t size = 0;
  std::string buffer(std::min<std::uint64_t>(entry.size + 1, piece), '\0');
  while (size <= entry.size) {
    // Reading on until nothing comes is what makes libzip compare the CRC-32.
    const zip_int64_t got = zip_fread(file.get(), buffer.data(), buffer.size());
    if (got < 0) throw damaged(message_of(zip_error_code_zip(zip_file_get_error(file.get()))));
    if (got == 0) break;
    size += static_cast<std::uint64_t>(got);
    sink(std::string_view(buffer).substr(0, static_cast<std::size_t>(got)));
  }
  if (size != entry.size) {
    throw damaged("its length is not the stated " + std::to_string(entry.size) + " bytes");
  }
}

std::string write_zip(const std::vector<ZipItem>& items) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* buffer = zip_source_buffer_create(nullptr, 0, 0, &error);
  if (buffer == nullptr) throw ZipError(message_of(&error));
  struct FreeSource {
    void operator()(zip_source_t* source) const { zip_source_free(source); }
  };
  zip_source_keep(buffer);  // one reference for the archive, one for reading the result back
  const std::unique_ptr<zip_source_t, FreeSource> kept(buffer);
  struct Discard {
    void operator()(zip_t* archive) const { zip_discard(archive); }
  };
  std::unique_ptr<zip_t, Discard> archive(zip_open_from_source(buffer, ZIP_TRUNCATE, &error));
  if (!archive) {
    zip_source_free(buffer);
    throw ZipError(message_of(&error));
  }
  zip_error_fini(&error);
  const auto check = [&archive](bool ok) {
    if (!ok) throw ZipError(zip_strerror(archive.get()));
  };
  for (const ZipItem& item : items) {
    zip_source_t* source =
        zip_source_buffer(archive.get(), item.bytes.data(), item.bytes.size(), 0);
    check(source != nullptr);
    const zip_int64_t index =
        zip_file_add(archive.get(), item.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    if (index < 0) zip_source_free(source);
    check(index >= 0);
    const auto position = static_cast<zip_uint64_t>(index);
    check(zip_set_file_compression(archive.get(), position, ZIP_CM_STORE, 0) == 0);
    // 1980-01-01 00:00, the first time a zip can hold
    check(zip_file_set_dostime(archive.get(), position, 0, 0x21, 0) == 0);
  }
  check(zip_close(archive.get()) == 0);
  static_cast<void>(archive.release());  // zip_close has freed it

  zip_stat_t stat;
  zip_stat_init(&stat);
  if (zip_source_stat(buffer, &stat) != 0 || zip_source_open(buffer) != 0) {
    throw ZipError(zip_error_strerror(zip_source_error(buffer)));
  }
  std::string bytes(stat.size, '\0');
  const zip_int64_t got = zip_source_read(buffer, bytes.data(), bytes.size());
  zip_source_close(buffer);
  if (got != static_cast<zip_int64_t>(bytes.size())) throw ZipError("the zip cannot be read back");
  return bytes;
}

}  // namespace torchship
