// Eight floats in an AVX2 register.
namespace avx2 {

using Vector = __m256;
constexpr int kWidth = 8;

INLINE Vector load(const float* p) { return _mm256_loadu_ps(p); }
INLINE void store(float* p, Vector x) { _mm256_storeu_ps(p, x); }
INLINE Vector fill(float x) { return _mm256_set1_ps(x); }
INLINE Vector add(Vector x, Vector y) { return _mm256_add_ps(x, y); }
INLINE Vector sub(Vector x, Vector y) { return _mm256_sub_ps(x, y); }
INLINE Vector mul(Vector x, Vector y) { return _mm256_mul_ps(x, y); }
INLINE Vector div(Vector x, Vector y) { return _mm256_div_ps(x, y); }
INLINE Vector fma(Vector x, Vector y, Vector z) { return _mm256_fmadd_ps(x, y, z); }
INLINE Vector max(float x, Vector y) { return _mm256_max_ps(_mm256_set1_ps(x), y); }
INLINE Vector min(float x, Vector y) { return _mm256_min_ps(_mm256_set1_ps(x), y); }
INLINE Vector max_of(Vector x, Vector y) { return _mm256_max_ps(x, y); }
INLINE Vector round(Vector x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE Vector scale(Vector x, Vector n) {
  const __m256i whole = _mm256_cvtps_epi32(min(128.0f, n));
  const __m256i exponent = _mm256_add_epi32(whole, _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

INLINE Vector load(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

INLINE void store(uint16_t* p, Vector x) {
  const __m256i bits = _mm256_castps_si256(x), odd = _mm256_srli_epi32(_mm256_slli_epi32(bits, 15), 31);
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m128i low = _mm256_castsi256_si128(kept), high = _mm256_extracti128_si256(kept, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
}

INLINE void sum_rows(const float* rows, float* sums) {
  for (int n = 0; n < 16; n++) {
    const Vector row = load(rows + 8 * n);
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(row), _mm256_extractf128_ps(row, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    sums[n] += _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
}

#include "vector_common.h"
#include "scan_kernel.h"
#include "conv_kernel.h"

}  // namespace avx2
