#pragma once

/// The floating-point mode of the calling thread, which belongs to the program around us: audio and
/// game engines flush subnormal numbers to zero, others round otherwise or trap exceptions. Golden
/// outputs were computed in the mode that every process starts with. Internal.

#include <cfenv>
#include <cstdint>
#include <optional>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace torchship {

/// While it lives, the thread computes in the mode that a process starts with: it rounds to the
/// nearest, keeps subnormal numbers and traps nothing. The destructor restores the caller's mode
/// and exception flags. Costs a few nanoseconds where the mode is the default already. Must not
/// move to another thread.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() : registers_(read()) {
    if (is_default(registers_)) return;
    std::fegetenv(&changed_.emplace());
    std::fesetenv(FE_DFL_ENV);
  }
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;
  ~DefaultFloatingPoint() {
    if (changed_) {
      std::fesetenv(&*changed_);
    } else {
      write_flags(registers_);
    }
  }

 private:
#if defined(__x86_64__)
  struct Registers {
    std::uint32_t sse = 0;
    std::uint16_t x87 = 0;
  };

  static Registers read() {
    Registers registers{.sse = _mm_getcsr()};
    __asm__ volatile("fnstcw %0" : "=m"(registers.x87));
    return registers;
  }

  static bool is_default(const Registers& registers) {
    // Of MXCSR all but the flags; of the x87's word masks, precision and rounding.
    return (registers.sse & 0xFFC0U) == 0x1F80U && (registers.x87 & 0x0F3FU) == 0x033FU;
  }

  static void write_flags(const Registers& registers) { _mm_setcsr(registers.sse); }
#elif defined(__aarch64__)
  struct Registers {
    std::uint64_t control = 0;
    std::uint64_t status = 0;
  };

  static Registers read() {
    Registers registers;
    __asm__ volatile("mrs %0, fpcr" : "=r"(registers.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(registers.status));
    return registers;
  }

  static bool is_default(const Registers& registers) { return registers.control == 0; }

  static void write_flags(const Registers& registers) {
    __asm__ volatile("msr fpsr, %0" : : "r"(registers.status));
  }
#else
  struct Registers {};
  static Registers read() { return {}; }
  static bool is_default(const Registers&) { return false; }
  static void write_flags(const Registers&) {}
#endif

  Registers registers_;
  std::optional<std::fenv_t> changed_;  // the caller's, where it was not the default
};

}  // namespace torchship
