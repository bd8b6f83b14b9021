#include "base/bytes.h"

namespace torchship {

bool is_utf8(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto at = [&](std::size_t k) { return static_cast<unsigned char>(bytes[k]); };
    const unsigned lead = at(i);
    std::size_t extra = 0;
    std::uint32_t point = lead;
    if (lead >= 0xF0 && lead < 0xF8) {
      extra = 3;
      point = lead & 0x07U;
    } else if (lead >= 0xE0 && lead < 0xF0) {
      extra = 2;
      point = lead & 0x0FU;
    } else if (lead >= 0xC0 && lead < 0xE0) {
      extra = 1;
      point = lead & 0x1FU;
    } else if (lead >= 0x80) {
      return false;
    }
    if (i + extra >= bytes.size()) return false;
    for (std::size_t k = 1; k <= extra; ++k) {
      if ((at(i + k) & 0xC0U) != 0x80U) return false;
      point = (point << 6U) | (at(i + k) & 0x3FU);
    }
    constexpr std::uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    if (point < smallest[extra] || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) {
      return false;
    }
    i += extra + 1;
  }
  return true;
}

}  // namespace torchship
