// SiLU of a causal depthwise convolution of three weights along orders of a token grid, and its gradient. What goes in
// stands in raster order, what comes out in the orders; a channel's weights stay in registers along a sequence.
#pragma once

#include "rows.h"

namespace mim {

constexpr int64_t TAPS = 3;

template <class T>
struct ConvInputs {
  const T *tokens, *weight, *bias;  // (batch, n_tokens, channels), (TAPS, channels), (channels)
  const int64_t* order;             // (orders, length), indices of tokens
  int64_t batch, n_tokens, channels, orders, length;

  int64_t blocks() const { return round_up(channels, LANES<T>) / LANES<T>; }
  const T* token(int64_t row, int64_t o, int64_t t) const {
    return tokens + (row * n_tokens + order[o * length + t]) * channels;
  }
  int64_t place(int64_t row, int64_t o, int64_t t) const { return ((row * orders + o) * length + t) * channels; }
};

// The parameters of one block of channels.
template <class T>
struct Taps {
  int64_t first, width;
  Vector<T> weight[TAPS], bias;

  Taps(const ConvInputs<T>& in, int64_t block)
      : first(block * LANES<T>), width(std::min(LANES<T>, in.channels - first)), bias(load(in.bias + first, width)) {
    for (int64_t k = 0; k < TAPS; ++k) weight[k] = load(in.weight + k * in.channels + first, width);
  }
};

template <class T>
void conv_row(const ConvInputs<T>& in, int64_t row, T* out) {
  for (int64_t block = 0; block < in.blocks(); ++block) {
    const Taps<T> taps(in, block);
    for (int64_t o = 0; o < in.orders; ++o) {
      Vector<T> two_before{}, before{};
      for (int64_t t = 0; t < in.length; ++t) {
        const Vector<T> x = load(in.token(row, o, t) + taps.first, taps.width);
        const Vector<T> z = taps.bias + taps.weight[0] * two_before + taps.weight[1] * before + taps.weight[2] * x;
        store(out + in.place(row, o, t) + taps.first, z / (T(1) + Elementary<Vector<T>>::exp(-z)), taps.width);
        two_before = before;
        before = x;
      }
    }
  }
}

// Sums over rows of the gradients of weight and bias, TAPS + 1 vectors for each block.
template <class T>
void conv_row_backward(const ConvInputs<T>& in, int64_t row, const T* grad_out, T* grad_tokens, Vectors<T>& x,
                       Vectors<T>& grad_z, Vectors<T>& sums) {
  for (int64_t block = 0; block < in.blocks(); ++block) {
    const Taps<T> taps(in, block);
    Vector<T>* sum = sums.at(block * (TAPS + 1));
    for (int64_t o = 0; o < in.orders; ++o) {  // x and grad_z have two zeros before and after the sequence
      for (int64_t t = 0; t < in.length; ++t) {
        x[t + 2] = load(in.token(row, o, t) + taps.first, taps.width);
        const Vector<T> z = taps.bias + taps.weight[0] * x[t] + taps.weight[1] * x[t + 1] + taps.weight[2] * x[t + 2];
        const Vector<T> share = T(1) / (T(1) + Elementary<Vector<T>>::exp(-z));
        const Vector<T> grad = load(grad_out + in.place(row, o, t) + taps.first, taps.width);
        grad_z[t] = grad * share * (T(1) + z * (T(1) - share));
        for (int64_t k = 0; k < TAPS; ++k) sum[k] += grad_z[t] * x[t + k];
        sum[TAPS] += grad_z[t];
      }
      for (int64_t t = 0; t < in.length; ++t) {
        T* to = grad_tokens + (in.token(row, o, t) - in.tokens) + taps.first;
        const Vector<T> grad = taps.weight[2] * grad_z[t] + taps.weight[1] * grad_z[t + 1] + taps.weight[0] * grad_z[t + 2];
        store(to, load(to, taps.width) + grad, taps.width);
      }
    }
  }
}

}  // namespace mim
