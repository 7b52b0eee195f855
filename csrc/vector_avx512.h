// Sixteen floats in an AVX-512 register.
namespace avx512 {

using Vector = __m512;
constexpr int kWidth = 16;

INLINE Vector load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
INLINE Vector fill(float x) { return _mm512_set1_ps(x); }
INLINE Vector add(Vector x, Vector y) { return _mm512_add_ps(x, y); }
INLINE Vector sub(Vector x, Vector y) { return _mm512_sub_ps(x, y); }
INLINE Vector mul(Vector x, Vector y) { return _mm512_mul_ps(x, y); }
INLINE Vector fma(Vector x, Vector y, Vector z) { return _mm512_fmadd_ps(x, y, z); }
// NaN in the second operand is kept.
INLINE Vector max(float x, Vector y) { return _mm512_max_ps(_mm512_set1_ps(x), y); }
INLINE Vector min(float x, Vector y) { return _mm512_min_ps(_mm512_set1_ps(x), y); }
INLINE Vector max_of(Vector x, Vector y) { return _mm512_max_ps(x, y); }
INLINE Vector round(Vector x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x 2^n for integer n.
INLINE Vector scale(Vector x, Vector n) { return _mm512_scalef_ps(x, n); }

INLINE Vector load(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

INLINE void store(uint16_t* p, Vector x) {
  const __m512i bits = _mm512_castps_si512(x), odd = _mm512_srli_epi32(_mm512_slli_epi32(bits, 15), 31);
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

// Adds the sum over the lanes of row n to sums[n].
INLINE void sum_rows(const float* rows, float* sums) {
  for (int n = 0; n < 16; n++) sums[n] += _mm512_reduce_add_ps(load(rows + 16 * n));
}

// Splits x into the nearest integer and the rest, in [-1/2, 1/2]. (Rounding down would save an instruction, since
// scaling does it anyway, but decays just below 1 lose digits, and the gradient of A has errors of 5.5e-7.)
INLINE Vector split(Vector x, Vector& whole) {
  const Vector rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  whole = sub(x, rest);
  return rest;
}

// 1 / x by one Newton step from 14 bits, for finite x other than 0.
INLINE Vector reciprocal(Vector x) {
  const Vector guess = _mm512_rcp14_ps(x);
  return mul(guess, sub(fill(2.0f), mul(x, guess)));
}

#include "scan_kernel.h"
#include "conv_kernel.h"

}  // namespace avx512
