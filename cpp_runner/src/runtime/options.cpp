#include <torchship/options.h>

namespace torchship {

std::string_view fusion_name(Fusion fusion) {
  switch (fusion) {
    case Fusion::off:
      return "off";
    case Fusion::static_shapes:
      return "static";
    case Fusion::dynamic_shapes:
      break;
  }
  return "dynamic";
}

}  // namespace torchship
