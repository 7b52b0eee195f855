// Four floats in the compiler's own vector type: SSE2 and NEON registers, or whatever the target has.
namespace plain {

typedef float Vector __attribute__((vector_size(16)));
typedef int32_t Whole __attribute__((vector_size(16)));
constexpr int kWidth = 4;

INLINE Vector load(const float* p) {
  Vector x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
INLINE void store(float* p, Vector x) { std::memcpy(p, &x, sizeof x); }
INLINE Vector fill(float x) { return Vector{x, x, x, x}; }
INLINE Vector add(Vector x, Vector y) { return x + y; }
INLINE Vector sub(Vector x, Vector y) { return x - y; }
INLINE Vector mul(Vector x, Vector y) { return x * y; }
INLINE Vector div(Vector x, Vector y) { return x / y; }
INLINE Vector fma(Vector x, Vector y, Vector z) { return x * y + z; }
INLINE Vector max_of(Vector x, Vector y) { return x > y ? x : y; }
INLINE Vector max(float x, Vector y) { return max_of(fill(x), y); }
INLINE Vector min(float x, Vector y) { return fill(x) < y ? fill(x) : y; }
// To the nearest integer, for |x| < 2^22: the sum has no fractional bits.
INLINE Vector round(Vector x) { return (x + 12582912.0f) - 12582912.0f; }
INLINE Vector scale(Vector x, Vector n) {
  // The conversion of a NaN does not matter: x is NaN, too.
  const Whole exponent = __builtin_convertvector(min(128.0f, n), Whole) + 127;
  return x * reinterpret_cast<Vector>(exponent << 23);
}

INLINE Vector load(const uint16_t* p) {
  return reinterpret_cast<Vector>(Whole{p[0] << 16, p[1] << 16, p[2] << 16, p[3] << 16});
}

INLINE void store(uint16_t* p, Vector x) {
  for (int i = 0; i < kWidth; i++) p[i] = to_bfloat16(x[i]);
}

INLINE void sum_rows(const float* rows, float* sums) {
  for (int n = 0; n < 16; n++) {
    const Vector row = load(rows + 4 * n);
    sums[n] += (row[0] + row[2]) + (row[1] + row[3]);
  }
}

#include "vector_common.h"
#include "scan_kernel.h"
#include "conv_kernel.h"

}  // namespace plain
