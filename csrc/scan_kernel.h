// The scan for one vector type; included in the namespace that defines the type.
// A vector holds kWidth channels; the 16 states of these channels are 16 vectors.

// ---- Vector functions ------------------------------------------------------------------------------

// 2^f for |f| <= 1/2, relative error 2e-9 before rounding (minimax).
INLINE Vector exp2_near_zero(Vector f) {
  Vector p = fill(1.5353361e-4f);
  p = fma(p, f, fill(1.3398875e-3f));
  p = fma(p, f, fill(9.6184369e-3f));
  p = fma(p, f, fill(5.5503324e-2f));
  p = fma(p, f, fill(2.4022648e-1f));
  p = fma(p, f, fill(6.9314718e-1f));
  return fma(p, f, fill(1.0f));
}

INLINE Vector exp2(Vector x) {
  Vector whole;
  const Vector rest = split(x, whole);
  return scale(exp2_near_zero(rest), whole);
}

// e^x to 2 ulp for x clamped to [-87, 87]; compensates the rounding of x log2(e).
INLINE Vector exp(Vector x) {
  x = min(87.0f, max(-87.0f, x));
  const Vector whole = round(mul(x, fill(kLog2e)));
  const Vector rest = fma(x, fill(kLog2e), sub(fill(0.0f), whole));
  return scale(exp2_near_zero(fma(x, fill(kLog2eRest), rest)), whole);
}

INLINE Vector negative(Vector x) { return sub(fill(0.0f), x); }
INLINE Vector absolute(Vector x) { return max_of(x, negative(x)); }

// log(1 + e) for 0 <= e <= 1, as 2 atanh(e / (2 + e)).
INLINE Vector log1p_unit(Vector e) {
  const Vector s = mul(e, reciprocal(add(fill(2.0f), e))), q = mul(s, s);
  Vector p = fill(1.0f / 15);
  p = fma(p, q, fill(1.0f / 13));
  p = fma(p, q, fill(1.0f / 11));
  p = fma(p, q, fill(1.0f / 9));
  p = fma(p, q, fill(1.0f / 7));
  p = fma(p, q, fill(1.0f / 5));
  p = fma(p, q, fill(1.0f / 3));
  return mul(add(s, s), fma(p, q, fill(1.0f)));
}

INLINE Vector softplus(Vector x) {
  return add(max(0.0f, x), log1p_unit(exp(negative(absolute(x)))));
}

INLINE Vector sigmoid(Vector x) { return reciprocal(add(fill(1.0f), exp(negative(x)))); }

// ---- Rows in memory --------------------------------------------------------------------------------

template <class T>
INLINE Vector load_some(const T* row, int count) {
  if (count >= kWidth) return load(row);
  T lanes[kWidth] = {};
  std::memcpy(lanes, row, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}

template <class T>
INLINE void store_some(T* row, Vector x, int count) {
  if (count >= kWidth) return store(row, x);
  T lanes[kWidth];
  store(lanes, x);
  std::memcpy(row, lanes, static_cast<size_t>(count) * sizeof(T));
}

// ---- One tile: kTile steps of kWidth channels ------------------------------------------------------

constexpr int kSet = kStates * kWidth;  // floats in a set of kStates states

struct Tile {
  alignas(64) float u[kTile * kWidth], delta[kTile * kWidth], raw[kTile * kWidth], gate[kTile * kWidth];
  alignas(64) float out[kTile * kWidth], grad[kTile * kWidth];
  alignas(64) float grad_drive[kTile * kWidth], grad_rate[kTile * kWidth];
};

// Reads the inputs of a tile as float32: u, delta with bias and softplus (`raw` without softplus), gate.
template <class T>
INLINE void read_tile(const Scan& scan, Tile& tile, int64_t b, int64_t start, int steps, int64_t channel, int count) {
  const T* u = static_cast<const T*>(scan.u) + b * scan.u_batch + start * scan.u_time + channel;
  const T* delta = static_cast<const T*>(scan.delta) + b * scan.delta_batch + start * scan.delta_time + channel;
  const T* z = static_cast<const T*>(scan.z) + (scan.z ? b * scan.z_batch + start * scan.z_time + channel : 0);
  const Vector bias = scan.delta_bias ? load_some(scan.delta_bias + channel, count) : fill(0.0f);
  for (int t = 0; t < steps; t++) {
    store(tile.u + t * kWidth, load_some(u + t * scan.u_time, count));
    const Vector raw = add(load_some(delta + t * scan.delta_time, count), bias);
    store(tile.raw + t * kWidth, raw);
    store(tile.delta + t * kWidth, scan.delta_softplus ? softplus(raw) : raw);
    if (scan.z) store(tile.gate + t * kWidth, load_some(z + t * scan.z_time, count));
  }
}

// Rows of the next tile, prefetched while this one is computed: they lie a page or two apart, where hardware
// prefetchers do not look.
struct Ahead {
  const char* row[4] = {};
  int64_t stride[4] = {};

  template <class T>
  void add(int i, const void* data, int64_t offset, int64_t step) {
    row[i] = reinterpret_cast<const char*>(static_cast<const T*>(data) + offset);
    stride[i] = step * static_cast<int64_t>(sizeof(T));
  }
  INLINE_MEMBER void fetch(int t) const {
    for (int i = 0; i < 4; i++) __builtin_prefetch(row[i] + t * stride[i]);
  }
};

template <class T>
Ahead rows_ahead(const Scan& scan, int64_t b, int64_t start, int64_t channel) {
  Ahead ahead;
  if (start >= scan.length) return ahead;
  ahead.add<T>(0, scan.u, b * scan.u_batch + start * scan.u_time + channel, scan.u_time);
  ahead.add<T>(1, scan.delta, b * scan.delta_batch + start * scan.delta_time + channel, scan.delta_time);
  if (scan.z) ahead.add<T>(2, scan.z, b * scan.z_batch + start * scan.z_time + channel, scan.z_time);
  const void* last = scan.grad_y ? scan.grad_y : scan.y;
  ahead.add<T>(3, last, (b * scan.length + start) * scan.dim + channel, scan.dim);
  return ahead;
}

// Reads the decay rates A of a block of channels, times log2(e), as [set][state][lane].
INLINE void read_rates(const Scan& scan, int64_t channel, int count, float* rates) {
  for (int64_t n = 0; n < scan.state; n++)
    for (int i = 0; i < kWidth; i++)
      rates[n * kWidth + i] = i < count ? scan.A[(channel + i) * scan.state + n] * kLog2e : 0.0f;
}

INLINE float* checkpoint(const Scan& scan, int64_t b, int64_t start, int64_t channel, int64_t set) {
  const int64_t tiles = (scan.length + kTile - 1) / kTile, blocks = (scan.dim + 15) / 16 * (16 / kWidth);
  const int64_t sets = scan.state / kStates;
  return scan.kept + (((b * tiles + start / kTile) * blocks + channel / kWidth) * sets + set) * kSet;
}

// Adds C h over one set of states to tile.out; advances `state` to the end of the tile.
INLINE void scan_tile(const Scan& scan, Tile& tile, const Ahead& ahead, int steps, const float* rates, const float* B,
                      const float* C, float* state) {
  Vector h[kStates];
  for (int n = 0; n < kStates; n++) h[n] = load(state + n * kWidth);
  for (int t = 0; t < steps; t++, B += scan.state, C += scan.state) {
    ahead.fetch(t);
    const Vector delta = load(tile.delta + t * kWidth), drive = mul(delta, load(tile.u + t * kWidth));
    Vector sum = load(tile.out + t * kWidth);
    UNROLL for (int n = 0; n < kStates; n++) {
      const Vector decay = exp2(mul(delta, load(rates + n * kWidth)));
      h[n] = fma(decay, h[n], mul(drive, fill(B[n])));
      sum = fma(h[n], fill(C[n]), sum);
    }
    store(tile.out + t * kWidth, sum);
  }
  for (int n = 0; n < kStates; n++) store(state + n * kWidth, h[n]);
}

// Scans up to kGroup channels of batch item b, from channel group * kGroup on.
template <class T>
void forward(const Scan& scan, int64_t b, int64_t group) {
  const int64_t from = group * kGroup, to = std::min(from + kGroup, scan.dim);
  const int64_t blocks = (to - from + kWidth - 1) / kWidth, sets = scan.state / kStates;
  std::vector<float> rates(blocks * sets * kSet), states(blocks * sets * kSet, 0.0f);
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t channel = from + block * kWidth;
    read_rates(scan, channel, static_cast<int>(to - channel), &rates[block * sets * kSet]);
  }
  Tile tile;
  for (int64_t start = 0; start < scan.length; start += kTile) {
    const int steps = static_cast<int>(std::min<int64_t>(kTile, scan.length - start));
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t channel = from + block * kWidth;
      const int count = static_cast<int>(to - channel);
      read_tile<T>(scan, tile, b, start, steps, channel, count);
      const Vector skip = scan.D ? load_some(scan.D + channel, count) : fill(0.0f);
      for (int t = 0; t < steps; t++) store(tile.out + t * kWidth, mul(skip, load(tile.u + t * kWidth)));
      const bool is_last = block + 1 == blocks;
      const Ahead ahead = rows_ahead<T>(scan, b, is_last ? start + kTile : start, is_last ? from : channel + kWidth);
      for (int64_t set = 0; set < sets; set++) {
        float* state = &states[(block * sets + set) * kSet];
        if (scan.kept) std::memcpy(checkpoint(scan, b, start, channel, set), state, kSet * sizeof(float));
        const int64_t maps = (b * scan.length + start) * scan.state + set * kStates;
        scan_tile(scan, tile, ahead, steps, &rates[(block * sets + set) * kSet], scan.B + maps, scan.C + maps, state);
      }
      T* y = static_cast<T*>(scan.y) + (b * scan.length + start) * scan.dim + channel;
      for (int t = 0; t < steps; t++) {
        Vector out = load(tile.out + t * kWidth);
        if (scan.z) {
          const Vector z = load(tile.gate + t * kWidth);
          out = mul(out, mul(z, sigmoid(z)));
        }
        store_some(y + t * scan.dim, out, count);
      }
    }
  }
}

// ---- Backward --------------------------------------------------------------------------------------

struct States {
  alignas(64) float decay[kTile * kSet], state[(kTile + 1) * kSet];  // state[t] is the one before step t
};

// Recomputes the states of one set from its checkpoint; adds C h to tile.out, for the gradient of the gate.
INLINE void recompute(const Scan& scan, Tile& tile, const Ahead& ahead, States& states, int steps, const float* rates,
                      const float* B, const float* C) {
  for (int t = 0; t < steps; t++, B += scan.state, C += scan.state) {
    const Vector delta = load(tile.delta + t * kWidth), drive = mul(delta, load(tile.u + t * kWidth));
    Vector sum = load(tile.out + t * kWidth);
    ahead.fetch(t);
    const float* before = states.state + t * kSet;
    UNROLL for (int n = 0; n < kStates; n++) {
      const Vector decay = exp2(mul(delta, load(rates + n * kWidth)));
      const Vector h = fma(decay, load(before + n * kWidth), mul(drive, fill(B[n])));
      store(states.decay + t * kSet + n * kWidth, decay);
      store(states.state + (t + 1) * kSet + n * kWidth, h);
      sum = fma(h, fill(C[n]), sum);
    }
    store(tile.out + t * kWidth, sum);
  }
}

// Backward pass through one set of states. Replaces `carry`, the gradient of the state after the tile, by that before.
INLINE void unscan_tile(const Scan& scan, Tile& tile, const States& states, int steps, const float* rates, const float* B,
                        const float* C, float* carry, float* grad_rates, float* grad_B, float* grad_C) {
  Vector later[kStates];
  alignas(64) float sums[kSet] = {};
  for (int n = 0; n < kStates; n++) later[n] = load(carry + n * kWidth);
  for (int t = steps - 1; t >= 0; t--) {
    const Vector delta = load(tile.delta + t * kWidth), drive = mul(delta, load(tile.u + t * kWidth));
    const Vector grad = load(tile.grad + t * kWidth);
    Vector grad_drive = load(tile.grad_drive + t * kWidth), grad_rate = load(tile.grad_rate + t * kWidth);
    const float *Bt = B + t * scan.state, *Ct = C + t * scan.state;
    const float *decays = states.decay + t * kSet, *before = states.state + t * kSet, *after = before + kSet;
    float *grad_Bt = grad_B + t * kSet, *grad_Ct = grad_C + t * kSet;
    UNROLL for (int n = 0; n < kStates; n++) {
      const Vector grad_state = fma(grad, fill(Ct[n]), later[n]);
      store(grad_Ct + n * kWidth, fma(grad, load(after + n * kWidth), load(grad_Ct + n * kWidth)));
      store(grad_Bt + n * kWidth, fma(grad_state, drive, load(grad_Bt + n * kWidth)));
      grad_drive = fma(grad_state, fill(Bt[n]), grad_drive);
      later[n] = mul(load(decays + n * kWidth), grad_state);
      const Vector exponent = mul(later[n], load(before + n * kWidth));
      grad_rate = fma(exponent, load(rates + n * kWidth), grad_rate);
      store(sums + n * kWidth, fma(exponent, delta, load(sums + n * kWidth)));
    }
    store(tile.grad_drive + t * kWidth, grad_drive);
    store(tile.grad_rate + t * kWidth, grad_rate);
  }
  for (int n = 0; n < kStates; n++) {
    store(carry + n * kWidth, later[n]);
    store(grad_rates + n * kWidth, add(load(grad_rates + n * kWidth), load(sums + n * kWidth)));
  }
}

template <class T>
void backward(const Scan& scan, int64_t b, int64_t group) {
  const int64_t from = group * kGroup, to = std::min(from + kGroup, scan.dim);
  const int64_t blocks = (to - from + kWidth - 1) / kWidth, sets = scan.state / kStates;
  const int64_t groups = (scan.dim + kGroup - 1) / kGroup;
  const size_t floats = static_cast<size_t>(blocks * sets * kSet), maps = static_cast<size_t>(sets * kTile * kSet);
  std::vector<float> rates(floats), carry(floats, 0.0f), grad_rates(floats, 0.0f), grad_B(maps), grad_C(maps);
  std::vector<float> grad_D(blocks * kWidth, 0.0f), grad_bias(blocks * kWidth, 0.0f);
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t channel = from + block * kWidth;
    read_rates(scan, channel, static_cast<int>(to - channel), &rates[block * sets * kSet]);
  }
  auto states = std::make_unique<States>();
  Tile tile;
  for (int64_t start = (scan.length - 1) / kTile * kTile; start >= 0; start -= kTile) {
    const int steps = static_cast<int>(std::min<int64_t>(kTile, scan.length - start));
    std::fill(grad_B.begin(), grad_B.end(), 0.0f);
    std::fill(grad_C.begin(), grad_C.end(), 0.0f);
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t channel = from + block * kWidth;
      const int count = static_cast<int>(to - channel);
      const int64_t row = (b * scan.length + start) * scan.dim + channel;
      read_tile<T>(scan, tile, b, start, steps, channel, count);
      const Vector skip = scan.D ? load_some(scan.D + channel, count) : fill(0.0f);
      const T* grad_y = static_cast<const T*>(scan.grad_y) + row;
      Vector sum_D = fill(0.0f);
      for (int t = 0; t < steps; t++) {
        const Vector u = load(tile.u + t * kWidth);
        Vector grad = load_some(grad_y + t * scan.dim, count);
        if (scan.z) {
          const Vector z = load(tile.gate + t * kWidth);
          grad = mul(grad, mul(z, sigmoid(z)));
        }
        store(tile.grad + t * kWidth, grad);
        store(tile.out + t * kWidth, mul(skip, u));
        store(tile.grad_drive + t * kWidth, fill(0.0f));
        store(tile.grad_rate + t * kWidth, fill(0.0f));
        sum_D = fma(grad, u, sum_D);
      }
      store(&grad_D[block * kWidth], add(load(&grad_D[block * kWidth]), sum_D));
      const bool is_last = block + 1 == blocks;
      const Ahead ahead =
          rows_ahead<T>(scan, b, is_last ? std::max<int64_t>(start - kTile, 0) : start, is_last ? from : channel + kWidth);
      for (int64_t set = 0; set < sets; set++) {
        const int64_t at = (block * sets + set) * kSet, map = (b * scan.length + start) * scan.state + set * kStates;
        std::memcpy(states->state, checkpoint(scan, b, start, channel, set), kSet * sizeof(float));
        recompute(scan, tile, ahead, *states, steps, &rates[at], scan.B + map, scan.C + map);
        unscan_tile(scan, tile, *states, steps, &rates[at], scan.B + map, scan.C + map, &carry[at], &grad_rates[at],
                    &grad_B[set * kTile * kSet], &grad_C[set * kTile * kSet]);
      }
      T* grad_u = static_cast<T*>(scan.grad_u) + row;
      T* grad_delta = static_cast<T*>(scan.grad_delta) + row;
      T* grad_z = static_cast<T*>(scan.grad_z) + (scan.z ? row : 0);
      Vector sum_bias = fill(0.0f);
      for (int t = 0; t < steps; t++) {
        const Vector drive = load(tile.grad_drive + t * kWidth), u = load(tile.u + t * kWidth);
        const Vector through_u = fma(load(tile.grad + t * kWidth), skip, mul(drive, load(tile.delta + t * kWidth)));
        store_some(grad_u + t * scan.dim, through_u, count);
        Vector step = fma(drive, u, mul(load(tile.grad_rate + t * kWidth), fill(kLn2)));
        if (scan.delta_softplus) step = mul(step, sigmoid(load(tile.raw + t * kWidth)));
        sum_bias = add(sum_bias, step);
        store_some(grad_delta + t * scan.dim, step, count);
        if (scan.z) {
          const Vector z = load(tile.gate + t * kWidth), open = sigmoid(z);
          const Vector slope = mul(open, fma(z, sub(fill(1.0f), open), fill(1.0f)));
          const Vector out = mul(load(tile.out + t * kWidth), load_some(grad_y + t * scan.dim, count));
          store_some(grad_z + t * scan.dim, mul(out, slope), count);
        }
      }
      store(&grad_bias[block * kWidth], add(load(&grad_bias[block * kWidth]), sum_bias));
    }
    for (int t = 0; t < steps; t++)
      for (int64_t set = 0; set < sets; set++) {
        const int64_t to_maps = ((b * groups + group) * scan.length + start + t) * scan.state + set * kStates;
        sum_rows(&grad_B[(set * kTile + t) * kSet], scan.grad_B + to_maps);
        sum_rows(&grad_C[(set * kTile + t) * kSet], scan.grad_C + to_maps);
      }
  }
  for (int64_t channel = from; channel < to; channel++) {
    const int64_t block = (channel - from) / kWidth, lane = (channel - from) % kWidth;
    for (int64_t n = 0; n < scan.state; n++)
      scan.grad_A[(b * scan.dim + channel) * scan.state + n] = grad_rates[(block * scan.state + n) * kWidth + lane];
    scan.grad_D[b * scan.dim + channel] = grad_D[block * kWidth + lane];
    scan.grad_bias[b * scan.dim + channel] = grad_bias[block * kWidth + lane];
  }
}
