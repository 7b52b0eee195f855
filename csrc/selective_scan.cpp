// The selective scan of Mamba on the CPU, forward and backward:
//
//   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = (C_t h_t + D u_t) SiLU(z_t)
//
// and the convolution before it: v_t = SiLU(sum_k w_k u_{t - taps + 1 + k} + bias).
//
// The interface is plain C, without headers of Python or torch, so that one build works with all their versions
// (`diffusionpose/nn/native_scan.py` calls it). Arithmetic is float32 throughout; rows may be bfloat16. Work is divided
// into groups of channels of one batch item, whatever the number of threads, so that results do not depend on it.

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#if !defined(__GNUC__)
#error "GCC or Clang is needed: vector types and target attributes are theirs"
#endif

#if defined(__x86_64__)
#define X86 1
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))
#define EXPORT extern "C" __attribute__((visibility("default")))
#define UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr int kTile = 32;     // steps between checkpoints; the states of a tile fit in a core's cache
constexpr int kStates = 16;   // states held in registers at once
constexpr int kGroup = 128;   // channels per task of the scan
constexpr int kRows = 32;     // time steps per task of the convolution
constexpr float kLog2e = 1.44269504088896341f, kLog2eRest = 1.92596299e-8f, kLn2 = 0.693147180559945309f;

}  // namespace

// In u, delta and z, channels are contiguous and strides are in elements; outputs are contiguous. `state` is a multiple
// of 16. Unused pointers are null. `threads` is the number of threads to use, `pool` the size of torch's thread pool.
extern "C" struct Scan {
  int64_t batch, length, dim, state;
  int64_t u_batch, u_time, delta_batch, delta_time, z_batch, z_time;
  int32_t is_bfloat16, delta_softplus, threads, pool, vectors;
  const void *u, *delta, *z;               // (batch, length, dim)
  const float *A, *B, *C, *D, *delta_bias; // (dim, state), (batch, length, state) twice, (dim), (dim)
  void* y;                                 // (batch, length, dim)
  float* kept;                             // (batch, tiles, dim rounded up to a multiple of 16, state)
  const void* grad_y;                      // (batch, length, dim)
  void *grad_u, *grad_delta, *grad_z;      // (batch, length, dim)
  float *grad_A, *grad_D, *grad_bias;      // per batch item: (batch, dim, state), (batch, dim) twice
  float *grad_B, *grad_C;                  // per group: (batch, groups, length, state), initially zero
};

// u is as in Scan; weight (taps, dim), bias (dim), y (batch, length, dim).
extern "C" struct Convolution {
  int64_t batch, length, dim, taps;
  int64_t u_batch, u_time;
  int32_t is_bfloat16, threads, pool, vectors;
  const void* u;
  const float *weight, *bias;
  void* y;
};

namespace {

INLINE uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#include "vector_plain.h"

#if X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "vector_avx2.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#include "vector_avx512.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// Treats subnormal numbers as 0 during its lifetime, since they are about a hundred times slower.
class FlushSubnormals {
#if X86
 public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

// Entry point of an OpenMP runtime for parallel regions: runs work(data) on that many threads.
using Parallel = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

// Entry point of the first OpenMP library loaded in this process, on Linux torch's; null if there is none.
// As with torch's own operators, a process forked after a multithreaded call must not make another one: spawn it.
Parallel openmp() {
  static const auto found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

// Runs work() on several threads, including this one.
template <class Work>
void together(Work& work, int64_t threads, int64_t pool) {
  // torch's idle threads spin for milliseconds, so threads besides them would get half a core each. Use the whole pool,
  // since a smaller team ends the threads that it leaves out.
  if (const Parallel parallel = threads > 1 && pool ? openmp() : nullptr) {
    parallel([](void* data) { (*static_cast<Work*>(data))(); }, &work, static_cast<unsigned>(pool), 0);
    return;
  }
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < threads; i++) others.emplace_back([&] { work(); });
  } catch (const std::system_error&) {
    // No more threads are available: those that run do all the work.
  }
  work();
  for (auto& other : others) other.join();
}

// Runs task(given, b, part) for every batch item and part, in any order.
template <class Given>
void run(const Given& given, int64_t parts, void (*task)(const Given&, int64_t, int64_t)) {
  const int64_t tasks = given.batch * parts;
  std::atomic<int64_t> next{0};
  auto work = [&] {
    const FlushSubnormals flush;
    for (int64_t i = next++; i < tasks; i = next++) task(given, i / parts, i % parts);
  };
  together(work, std::min<int64_t>(given.threads, tasks), given.pool);
}

enum Vectors : int32_t { kPlain = 0, kAvx2 = 1, kAvx512 = 2 };

// Selects the function for the vectors and element type of `given`.
#if X86
#define PICK(given, NAME, T) \
  ((given).vectors == kAvx512 ? avx512::NAME<T> : (given).vectors == kAvx2 ? avx2::NAME<T> : plain::NAME<T>)
#else
#define PICK(given, NAME, T) (plain::NAME<T>)
#endif
#define RUN(given, NAME, parts) \
  run(given, parts, (given).is_bfloat16 ? PICK(given, NAME, uint16_t) : PICK(given, NAME, float))

int64_t parts_of(int64_t size, int64_t part) { return (size + part - 1) / part; }

}  // namespace

// Widest vectors that this processor supports.
EXPORT int32_t diffusionpose_scan_vectors() {
#if X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kPlain;
}

// Whether multithreading uses OpenMP.
EXPORT int32_t diffusionpose_scan_has_openmp() { return openmp() != nullptr; }
EXPORT int32_t diffusionpose_scan_tile() { return kTile; }
EXPORT int32_t diffusionpose_scan_group() { return kGroup; }
// Size of the structs, by which the caller detects a library of another build.
EXPORT int64_t diffusionpose_scan_size() { return sizeof(Scan) + sizeof(Convolution); }

EXPORT void diffusionpose_scan_forward(const Scan* scan) { RUN(*scan, forward, parts_of(scan->dim, kGroup)); }
EXPORT void diffusionpose_scan_backward(const Scan* scan) { RUN(*scan, backward, parts_of(scan->dim, kGroup)); }
EXPORT void diffusionpose_convolve(const Convolution* conv) { RUN(*conv, convolve, parts_of(conv->length, kRows)); }
