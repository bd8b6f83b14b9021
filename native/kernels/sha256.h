/* --- SHA-256 of FIPS 180-4: what a file of weights is known by --- */
static const uint32_t ts_sha256_constants[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};
static inline uint32_t ts_sha256_turned(uint32_t x, int bits) {
  return x >> bits | x << (32 - bits);
}
static inline void ts_sha256_block(uint32_t state[8], const unsigned char *block) {
  uint32_t words[64], turned[8];
  for (int i = 0; i < 16; i++) {
    const unsigned char *bytes = block + 4 * i;
    words[i] = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
  }
  for (int i = 16; i < 64; i++) {
    const uint32_t early = words[i - 15], late = words[i - 2];
    const uint32_t a = ts_sha256_turned(early, 7) ^ ts_sha256_turned(early, 18) ^ early >> 3;
    const uint32_t b = ts_sha256_turned(late, 17) ^ ts_sha256_turned(late, 19) ^ late >> 10;
    words[i] = words[i - 16] + a + words[i - 7] + b;
  }
  memcpy(turned, state, sizeof turned);
  for (int i = 0; i < 64; i++) {
    const uint32_t a = turned[0], b = turned[1], c = turned[2];
    const uint32_t e = turned[4], f = turned[5], g = turned[6];
    const uint32_t mixed_e = ts_sha256_turned(e, 6) ^ ts_sha256_turned(e, 11) ^ ts_sha256_turned(e, 25);
    const uint32_t mixed_a = ts_sha256_turned(a, 2) ^ ts_sha256_turned(a, 13) ^ ts_sha256_turned(a, 22);
    const uint32_t first = turned[7] + mixed_e + ((e & f) ^ (~e & g)) + ts_sha256_constants[i] + words[i];
    const uint32_t second = mixed_a + ((a & b) ^ (a & c) ^ (b & c));
    memmove(turned + 1, turned, 7 * sizeof *turned);
    turned[4] += first;
    turned[0] = first + second;
  }
  for (int i = 0; i < 8; i++)
    state[i] += turned[i];
}
static inline void ts_sha256(const unsigned char *bytes, size_t size, unsigned char digest[32]) {
  uint32_t state[8] = {
      0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
  unsigned char end[128] = {0};
  const size_t rest = size % 64, length = rest < 56 ? 64 : 128;
  for (size_t at = 0; at + 64 <= size; at += 64)
    ts_sha256_block(state, bytes + at);
  memcpy(end, bytes + (size - rest), rest);
  end[rest] = 0x80;
  for (int i = 0; i < 8; i++)
    end[length - 1 - i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
  for (size_t at = 0; at < length; at += 64)
    ts_sha256_block(state, end + at);
  for (int i = 0; i < 32; i++)
    digest[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}
/* The first 8 bytes of a digest. */
static inline void ts_say_digest(ts_message *message, const unsigned char *digest) {
  char text[20] = {0};
  for (int i = 0; i < 16; i++)
    text[i] = "0123456789abcdef"[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
  text[16] = text[17] = text[18] = '.';
  ts_say(message, text);
}
