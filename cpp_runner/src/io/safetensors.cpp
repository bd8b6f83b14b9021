// The safetensors format: 8 bytes little-endian header length, a JSON header, the tensors' bytes.

#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/tensor_io.h>

#include "base/bytes.h"
#include "base/parse_json.h"
#include "io/plain_tensor.h"
#include "io/raw_tensor.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace torchship {
namespace {

constexpr std::uint64_t max_header = 100'000'000;  // the reference implementation's limit

[[noreturn]] void refuse(const std::string& message) {
  throw InputError("safetensors: " + message);
}

struct Entry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

std::vector<std::uint64_t> numbers(const nlohmann::ordered_json& value, const std::string& what) {
  if (!value.is_array()) refuse(what + " is no list");
  std::vector<std::uint64_t> result;
  for (const auto& item : value) {
    if (!item.is_number_unsigned()) refuse(what + " holds " + item.dump() + ", expected a size");
    result.push_back(item.get<std::uint64_t>());
  }
  return result;
}

Entry parse_entry(const std::string& name, const nlohmann::ordered_json& fields) {
  const std::string what = "'" + name + "'";
  if (!fields.is_object()) refuse(what + " is no object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!fields.contains(key)) refuse(what + " has no " + key);
  }
  Entry entry;
  entry.name = name;
  const auto& dtype = fields["dtype"];
  const auto known =
      dtype.is_string() ? dtype_from_safetensors(dtype.get<std::string>()) : std::nullopt;
  if (!known) refuse(what + " has the dtype " + dtype.dump() + ", which is not supported");
  entry.dtype = *known;
  std::optional<std::uint64_t> size = c10::elementSize(*known);
  for (const std::uint64_t dimension : numbers(fields["shape"], what + ": shape")) {
    if (size) size = multiply(*size, dimension);
    if (dimension > static_cast<std::uint64_t>(INT64_MAX)) refuse(what + ": shape is too large");
    entry.shape.push_back(static_cast<std::int64_t>(dimension));
  }
  const auto offsets = numbers(fields["data_offsets"], what + ": data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    refuse(what + ": data_offsets are no [begin, end]");
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (!size || *size != entry.end - entry.begin) {
    refuse(what + ": its shape does not fit its " + std::to_string(entry.end - entry.begin) +
           " bytes");
  }
  return entry;
}

}  // namespace

TensorMap read_safetensors(std::string_view bytes) {
  if (bytes.size() < 8) refuse("the file is cut short");
  const auto length = load_le<std::uint64_t>(bytes, 0);
  if (length > max_header || length > bytes.size() - 8) {
    refuse("the header's length is stated as " + std::to_string(length) + " bytes, the file has " +
           std::to_string(bytes.size()));
  }
  const std::string_view data = bytes.substr(8 + length);
  nlohmann::ordered_json header;
  try {
    header = parse_json(bytes.substr(8, length));
  } catch (const std::invalid_argument& error) {
    refuse(std::string("the header is no JSON: ") + error.what());
  }
  if (!header.is_object()) refuse("the header is no JSON object");
  std::vector<Entry> entries;
  for (const auto& [name, fields] : header.items()) {
    if (name != "__metadata__") entries.push_back(parse_entry(name, fields));
  }
  // Every byte belongs to exactly one tensor: nothing overlaps, nothing is hidden between.
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  TensorMap tensors;
  std::uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != position || entry.end > data.size()) {
      refuse("'" + entry.name + "': data_offsets leave a gap, overlap or lie outside the file");
    }
    position = entry.end;
    try {
      tensors.emplace(entry.name, raw_tensor(entry.dtype, entry.shape,
                                             data.substr(entry.begin, entry.end - entry.begin)));
    } catch (const std::invalid_argument& error) {
      refuse("'" + entry.name + "': " + error.what());
    }
  }
  if (position != data.size()) refuse("there are bytes that belong to no tensor");
  return tensors;
}

std::string write_safetensors(const TensorMap& tensors) {
  // Widest elements first, so that every tensor is aligned to its element size.
  std::vector<const TensorMap::value_type*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::ranges::stable_sort(order, std::greater<>(), [](const TensorMap::value_type* item) {
    return item->second.element_size();
  });
  nlohmann::ordered_json::object_t header;
  std::string data;
  for (const auto* item : order) {
    const auto& [name, tensor] = *item;
    const auto dtype = find_dtype(tensor.scalar_type());
    if (!dtype) {
      throw EncodingError("safetensors cannot carry '" + name + "' of " +
                          dtype_name(tensor.scalar_type()));
    }
    const at::Tensor dense = writable(tensor);
    const std::size_t begin = data.size();
    data.append(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes());
    // Not by `header[name]`, which would look through all names before.
    header.emplace_back(name, nlohmann::ordered_json{{"dtype", dtype->safetensors},
                                                     {"shape", dense.sizes().vec()},
                                                     {"data_offsets", {begin, data.size()}}});
  }
  std::string text = nlohmann::ordered_json(std::move(header)).dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return store_le(std::uint64_t{text.size()}) + text + data;
}

}  // namespace torchship
