// Sequence attention on CUDA: tokens times the logistic function of a weighting of their channels' maximum and mean.
#pragma once

#include "around_scan.cuh"

namespace mim {

template <class T>
struct Attention {
  const T *x, *weight;  // (rows, channels); of maximum and mean, and the bias
  int rows, channels;
};

// A token, whose channels a warp has.
template <class T>
struct AttendedToken {
  T x[CHANNELS_EACH], largest, mean, attention;
  int lane;
  Index at;

  template <class Use>
  MIM_INLINE void each_channel(const Attention<T>& in, Use use) const {
#pragma unroll
    for (int k = 0; k < CHANNELS_EACH; ++k)
      if (k * WARP + lane < in.channels) use(k, at + k * WARP + lane);
  }

  MIM_INLINE AttendedToken(const Attention<T>& in, int row) : lane(threadIdx.x % WARP), at((Index)row * in.channels) {
    T most = T(-3.4e38), total = 0;
    each_channel(in, [&](int k, Index i) {
      x[k] = in.x[i];
      total += x[k];
      most = x[k] > most ? x[k] : most;
    });
    largest = largest_of_warp(most);
    mean = sum_warp(total) / in.channels;
    attention = logistic(in.weight[0] * largest + in.weight[1] * mean + in.weight[2]);
  }
};

// A warp for each token.
template <class T>
MIM_INLINE void attend(const Attention<T>& in, T* y) {
  const Index row = (Index)blockIdx.x * WARPS + threadIdx.x / WARP;
  if (row >= in.rows) return;
  const AttendedToken<T> token(in, row);
  token.each_channel(in, [&](int k, Index i) { y[i] = token.attention * token.x[k]; });
}

// The gradients of one group of tokens (grid x), those of the weight as parts, (group, 3).
template <class T>
MIM_INLINE void attend_backward(const Attention<T>& in, const T* grad_y, T* grad_x, T* parts) {
  __shared__ T sums[3][WARPS];
  const int warp = threadIdx.x / WARP;
  T to_weight[3] = {};
  const int end = (Index)(blockIdx.x + 1) * in.rows / gridDim.x;
  for (int row = (Index)blockIdx.x * in.rows / gridDim.x + warp; row < end; row += WARPS) {
    const AttendedToken<T> token(in, row);
    T inner = 0, ties = 0;
    token.each_channel(in, [&](int k, Index i) {
      inner += grad_y[i] * token.x[k];
      ties += token.x[k] == token.largest ? T(1) : T(0);
    });
    inner = sum_warp(inner) * token.attention * (T(1) - token.attention);
    ties = sum_warp(ties);
    to_weight[0] += inner * token.largest;
    to_weight[1] += inner * token.mean;
    to_weight[2] += inner;
    const T to_mean = inner * in.weight[1] / in.channels, to_largest = inner * in.weight[0] / ties;
    token.each_channel(in, [&](int k, Index i) {  // equal ones divide the gradient of the largest
      grad_x[i] = grad_y[i] * token.attention + to_mean + (token.x[k] == token.largest ? to_largest : T(0));
    });
  }
  if (threadIdx.x % WARP == 0)
    for (int i = 0; i < 3; ++i) sums[i][warp] = to_weight[i];
  __syncthreads();
  if (threadIdx.x < 3) {
    T total = 0;
    for (int w = 0; w < WARPS; ++w) total += sums[threadIdx.x][w];
    parts[blockIdx.x * 3 + threadIdx.x] = total;
  }
}

}  // namespace mim
