// Mamba's causal depthwise convolution and SiLU for one vector type; included after scan_kernel.h.

// Computes up to kRows time steps of batch item b, from step rows * kRows on.
template <class T>
void convolve(const Convolution& conv, int64_t b, int64_t rows) {
  const int64_t end = std::min((rows + 1) * kRows, conv.length);
  for (int64_t t = rows * kRows; t < end; t++) {
    const T* u = static_cast<const T*>(conv.u) + b * conv.u_batch;
    T* y = static_cast<T*>(conv.y) + (b * conv.length + t) * conv.dim;
    const int64_t missing = std::max<int64_t>(0, conv.taps - 1 - t);
    for (int64_t channel = 0; channel < conv.dim; channel += kWidth) {
      const int count = static_cast<int>(std::min<int64_t>(kWidth, conv.dim - channel));
      Vector sum = load_some(conv.bias + channel, count);
      for (int64_t k = missing; k < conv.taps; k++) {
        const T* row = u + (t - conv.taps + 1 + k) * conv.u_time + channel;
        sum = fma(load_some(row, count), load_some(conv.weight + k * conv.dim + channel, count), sum);
      }
      store_some(y + channel, mul(sum, sigmoid(sum)), count);
    }
  }
}
