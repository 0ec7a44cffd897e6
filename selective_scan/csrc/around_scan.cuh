// What a T-Mamba does around its scans on CUDA, forward and backward: the gathering convolution with SiLU before them,
// and after them Gaussian decay, merge, layer norm and sequence attention. Both directions in one launch. Sums over the
// batch come as parts of fixed groups of rows; no sum uses atomics.
#pragma once

#include "tile.cuh"

namespace mim {

constexpr int BLOCK = 256, WARPS = BLOCK / WARP, TAPS = 3;
constexpr int MOST_CHANNELS = 256, MOST_LENGTH = 448, MOST_PLACES = 8192;  // places: both directions' of all orders
constexpr int CHANNELS_EACH = MOST_CHANNELS / WARP;                        // of a lane

template <class T>
MIM_INLINE T sum_warp(T value) {
#pragma unroll
  for (int half = WARP / 2; half > 0; half /= 2) value += __shfl_xor_sync(~0u, value, half);
  return value;
}

template <class T>
MIM_INLINE T largest_of_warp(T value) {
#pragma unroll
  for (int half = WARP / 2; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(~0u, value, half);
    value = other > value ? other : value;
  }
  return value;
}

template <class T>
MIM_INLINE T logistic(T x) {
  return Elementary<T>::reciprocal(T(1) + Elementary<T>::exp(-x));
}

// Sequences are (direction, batch, order, step, channel).
template <class T>
struct Convolution {
  const T* tokens;             // (batch, n_tokens, channels)
  const long long* orders[2];  // (n_orders, length) of each direction
  const T *weight[2], *bias[2];
  int batch, n_tokens, n_orders, length, channels;

  MIM_INLINE const long long* order(int way, int row) const {
    return pick(orders, way) + (Index)(row % n_orders) * length;
  }
  MIM_INLINE const T* sample(int row) const { return tokens + (Index)(row / n_orders) * n_tokens * channels; }
  MIM_INLINE Index sequence(int way, int row) const {
    return ((Index)way * batch * n_orders + row) * length * channels;
  }
};

// The token of one channel at a step and at those before it, the latest last, and what the convolution makes of them.
template <class T>
struct Window {
  T x[TAPS], sum;

  MIM_INLINE Window(const Convolution<T>& in, int way, int row, int t, int c) {
    const long long* order = in.order(way, row);
    const T *sample = in.sample(row) + c, *weight = pick(in.weight, way) + c;
    sum = pick(in.bias, way)[c];
#pragma unroll
    for (int k = 0; k < TAPS; ++k) {
      const int at = t - (TAPS - 1) + k;
      x[k] = at < 0 ? T(0) : sample[order[at] * in.channels];
      sum += weight[k * in.channels] * x[k];
    }
  }
};

// u of one row (grid x) and direction (grid y).
template <class T>
MIM_INLINE void convolve(const Convolution<T>& in, T* u) {
  const int row = blockIdx.x, way = blockIdx.y;
  T* out = u + in.sequence(way, row);
  for (int i = threadIdx.x; i < in.length * in.channels; i += BLOCK) {
    const T z = Window<T>(in, way, row, i / in.channels, i % in.channels).sum;
    out[i] = z * logistic(z);
  }
}

// The gradient by u becomes the one by the convolution, in its place, for one group of rows (grid x) and direction
// (grid y); the gradients of weight and bias as parts, (group, direction, TAPS + 1, channels).
template <class T>
MIM_INLINE void convolve_backward(const Convolution<T>& in, T* grad_u, T* parts) {
  __shared__ T sums[TAPS + 1][BLOCK];
  const int way = blockIdx.y, rows = in.batch * in.n_orders, lanes = BLOCK / in.channels;  // threads of a channel
  const int c = threadIdx.x % in.channels, lane = threadIdx.x / in.channels;
  const int end = (Index)(blockIdx.x + 1) * rows / gridDim.x;
  T sum[TAPS + 1] = {};
  for (int row = (Index)blockIdx.x * rows / gridDim.x; row < end && lane < lanes; ++row)
    for (int t = lane; t < in.length; t += lanes) {
      const Window<T> window(in, way, row, t, c);
      const T sigmoid = logistic(window.sum);
      T* place = grad_u + in.sequence(way, row) + t * in.channels + c;
      const T grad = *place *= sigmoid * (T(1) + window.sum * (T(1) - sigmoid));
#pragma unroll
      for (int k = 0; k < TAPS; ++k) sum[k] += grad * window.x[k];
      sum[TAPS] += grad;
    }
#pragma unroll
  for (int k = 0; k <= TAPS; ++k) sums[k][threadIdx.x] = sum[k];
  __syncthreads();
  for (int i = threadIdx.x; i < (TAPS + 1) * in.channels; i += BLOCK) {
    T total = 0;
    for (int j = 0; j < lanes; ++j) total += sums[i / in.channels][j * in.channels + i % in.channels];
    parts[((Index)blockIdx.x * 2 + way) * (TAPS + 1) * in.channels + i] = total;
  }
}

// The gradient of a sample's tokens (grid x), BLOCK numbers of them (grid y), from those by the convolutions; an order
// has each token once at most.
template <class T>
MIM_INLINE void gather_gradients(const Convolution<T>& in, const T* grad, T* grad_tokens) {
  __shared__ short steps[MOST_PLACES];  // of a token in each direction's orders, -1 if there is none
  const int n = in.n_orders * in.n_tokens;
  for (int i = threadIdx.x; i < 2 * n; i += BLOCK) steps[i] = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * in.n_orders * in.length; i += BLOCK) {
    const int t = i % in.length, order = i / in.length % in.n_orders, way = i / (in.length * in.n_orders);
    steps[way * n + order * in.n_tokens + pick(in.orders, way)[order * in.length + t]] = t;
  }
  __syncthreads();
  T* out = grad_tokens + (Index)blockIdx.x * in.n_tokens * in.channels;
  const int i = blockIdx.y * BLOCK + threadIdx.x, token = i / in.channels, c = i % in.channels;
  if (token >= in.n_tokens) return;
  T total = 0;
  for (int way = 0; way < 2; ++way) {
    T weight[TAPS];
#pragma unroll
    for (int k = 0; k < TAPS; ++k) weight[k] = pick(in.weight, way)[(TAPS - 1 - k) * in.channels + c];
#pragma unroll 4
    for (int order = 0; order < in.n_orders; ++order) {
      const int t = steps[way * n + order * in.n_tokens + token];
      const T* from = grad + in.sequence(way, blockIdx.x * in.n_orders + order) + t * in.channels + c;
#pragma unroll
      for (int k = 0; k < TAPS; ++k)
        if (t >= 0 && t + k < in.length) total += weight[k] * from[k * in.channels];
    }
  }
  out[i] = total;
}

template <class T>
struct Merging {
  const T* y;                  // (direction, row, step, channel)
  const long long* orders[2];  // (n_orders, length)
  const T *index_weight, *gain, *offset;
  const T* attention;  // of maximum and mean, and the bias; null for none
  int rows, n_orders, length, channels, centre, by_feature, halves;
  T eps;

  MIM_INLINE int n_parts() const { return halves ? 2 * length - 1 : length; }
  MIM_INLINE const T* sequence(int way, int row) const { return y + ((Index)way * rows + row) * length * channels; }
};

// The weights of the steps of both directions of a row, in shared memory.
template <class T>
struct Weights {
  T weight[2][MOST_LENGTH], distance[2][MOST_LENGTH], scale[2];

  MIM_INLINE bool even(const Merging<T>& in, int way) const { return !in.by_feature || !(scale[way] > 0); }

  MIM_INLINE void weigh(const Merging<T>& in, int row) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (in.by_feature) {
      for (int i = warp; i < 2 * in.length; i += WARPS) {
        const int way = i / in.length, t = i % in.length;
        const T* y = in.sequence(way, row);
        T squares = 0;
        for (int c = lane; c < in.channels; c += WARP) {
          const T apart = y[t * in.channels + c] - y[in.centre * in.channels + c];
          squares += apart * apart;
        }
        squares = sum_warp(squares);
        if (lane == 0) distance[way][t] = root(squares);
      }
      __syncthreads();
      if (warp < 2) {
        T sum = 0;
        for (int t = lane; t < in.length; t += WARP) sum += distance[warp][t];
        sum = sum_warp(sum);
        if (lane == 0) scale[warp] = sum / in.length;
      }
      __syncthreads();
    }
    for (int i = threadIdx.x; i < 2 * in.length; i += BLOCK) {
      const int way = i / in.length, t = i % in.length;
      T factor = 1;
      if (!even(in, way)) {
        const T ratio = distance[way][t] / scale[way];
        factor = Elementary<T>::exp(T(-0.5) * ratio * ratio);
      }
      weight[way][t] = in.index_weight[t] * factor;
    }
    __syncthreads();
  }
};

// A merged token: a of ahead's step i and b of behind's step j; a warp has all of its channels.
template <class T>
struct MergedToken {
  T a, b, scale, attention, largest, mean;
  int i, j, lane;
  long long place;
  T x[CHANNELS_EACH];  // normalised, but for gain and offset

  template <class Use>
  MIM_INLINE void each_channel(const Merging<T>& in, Use use) const {
#pragma unroll
    for (int k = 0; k < CHANNELS_EACH; ++k)
      if (k * WARP + lane < in.channels) use(k, k * WARP + lane);
  }
  MIM_INLINE T normed(const Merging<T>& in, int k, int c) const { return x[k] * in.gain[c] + in.offset[c]; }

  MIM_INLINE MergedToken(const Merging<T>& in, const Weights<T>& weights, int row, int part) {
    const int last = in.length - 1;
    lane = threadIdx.x % WARP;
    if (!in.halves) {
      a = b = T(0.5), i = part, j = last - part;
    } else if (part == 2 * last) {
      a = b = T(0.5), i = j = last;
    } else {
      a = part < last, b = 1 - a, i = j = part % last;
    }
    const Index order = (Index)(row % in.n_orders) * in.length;
    place = a > 0 ? in.orders[0][order + i] : in.orders[1][order + j];
    const T *ahead = in.sequence(0, row) + i * in.channels, *behind = in.sequence(1, row) + j * in.channels;
    const T of_ahead = a * weights.weight[0][i], of_behind = b * weights.weight[1][j];
    T sum = 0, squares = 0;
    each_channel(in, [&](int k, int c) {
      x[k] = (a > 0 ? of_ahead * ahead[c] : T(0)) + (b > 0 ? of_behind * behind[c] : T(0));
      sum += x[k];
    });
    sum = sum_warp(sum) / in.channels;
    each_channel(in, [&](int k, int) {
      x[k] -= sum;
      squares += x[k] * x[k];
    });
    scale = T(1) / root(sum_warp(squares) / in.channels + in.eps);
    each_channel(in, [&](int k, int) { x[k] *= scale; });
    attention = 1;
    if (in.attention) attend(in);
  }

  MIM_INLINE void attend(const Merging<T>& in) {
    T most = T(-3.4e38), total = 0;
    each_channel(in, [&](int k, int c) {
      const T v = normed(in, k, c);
      total += v;
      most = v > most ? v : most;
    });
    largest = largest_of_warp(most);
    mean = sum_warp(total) / in.channels;
    attention = logistic(in.attention[0] * largest + in.attention[1] * mean + in.attention[2]);
  }
};

// The merged tokens of one row (grid x) in raster order, (n_parts, channels).
template <class T>
MIM_INLINE void merge(const Merging<T>& in, T* merged) {
  __shared__ Weights<T> weights;
  const int row = blockIdx.x;
  weights.weigh(in, row);
  T* out = merged + (Index)row * in.n_parts() * in.channels;
  for (int part = threadIdx.x / WARP; part < in.n_parts(); part += WARPS) {
    const MergedToken<T> token(in, weights, row, part);
    token.each_channel(
        in, [&](int k, int c) { out[token.place * in.channels + c] = token.attention * token.normed(in, k, c); });
  }
}

// From the gradient of the merged tokens to that of y, for one group of rows (grid x); those of gain, offset and
// attention as parts, (group, 2 channels + 3).
template <class T>
MIM_INLINE void merge_backward(const Merging<T>& in, const T* grad_merged, T* grad_y, T* parts) {
  __shared__ Weights<T> weights;
  __shared__ T to_weight[2][MOST_LENGTH];  // then along: of the distance from the centre
  __shared__ T sums[WARPS][MOST_CHANNELS];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  T to_gain[CHANNELS_EACH] = {}, to_offset[CHANNELS_EACH] = {}, to_attention[3] = {};
  const int end = (Index)(blockIdx.x + 1) * in.rows / gridDim.x;
  for (int row = (Index)blockIdx.x * in.rows / gridDim.x; row < end; ++row) {
    weights.weigh(in, row);
    const T* given = grad_merged + (Index)row * in.n_parts() * in.channels;
    for (int part = warp; part < in.n_parts(); part += WARPS) {
      const MergedToken<T> token(in, weights, row, part);
      T grad[CHANNELS_EACH];
      token.each_channel(in, [&](int k, int c) { grad[k] = given[token.place * in.channels + c]; });
      if (in.attention) {
        T inner = 0, ties = 0;
        token.each_channel(in, [&](int k, int c) {
          inner += grad[k] * token.normed(in, k, c);
          ties += token.normed(in, k, c) == token.largest ? T(1) : T(0);
        });
        inner = sum_warp(inner) * token.attention * (T(1) - token.attention);
        ties = sum_warp(ties);
        to_attention[0] += inner * token.largest;
        to_attention[1] += inner * token.mean;
        to_attention[2] += inner;
        const T to_mean = inner * in.attention[1] / in.channels, to_largest = inner * in.attention[0] / ties;
        token.each_channel(in, [&](int k, int c) {  // equal ones divide the gradient of the largest
          const bool is_largest = token.normed(in, k, c) == token.largest;
          grad[k] = grad[k] * token.attention + to_mean + (is_largest ? to_largest : T(0));
        });
      }
      T mean = 0, slope = 0, of_ahead = 0, of_behind = 0;
      token.each_channel(in, [&](int k, int c) {
        to_gain[k] += grad[k] * token.x[k];
        to_offset[k] += grad[k];
        grad[k] *= in.gain[c];
        mean += grad[k];
        slope += grad[k] * token.x[k];
      });
      mean = sum_warp(mean) / in.channels;
      slope = sum_warp(slope) / in.channels;
      const Index ahead = in.sequence(0, row) - in.y + token.i * in.channels;
      const Index behind = in.sequence(1, row) - in.y + token.j * in.channels;
      token.each_channel(in, [&](int k, int c) {
        const T g = (grad[k] - mean - slope * token.x[k]) * token.scale;
        if (token.a > 0) {
          grad_y[ahead + c] = token.a * g;
          of_ahead += token.a * g * in.y[ahead + c];
        }
        if (token.b > 0) {
          grad_y[behind + c] = token.b * g;
          of_behind += token.b * g * in.y[behind + c];
        }
      });
      of_ahead = sum_warp(of_ahead);
      of_behind = sum_warp(of_behind);
      if (lane == 0 && token.a > 0) to_weight[0][token.i] = of_ahead;
      if (lane == 0 && token.b > 0) to_weight[1][token.j] = of_behind;
    }
    __syncthreads();
    if (warp < 2) {  // a warp for each direction
      const T scale = weights.scale[warp];
      const bool even = weights.even(in, warp);
      T sum = 0;
      for (int t = lane; t < in.length && !even; t += WARP) {
        const T ratio = weights.distance[warp][t] / scale;
        to_weight[warp][t] *= -weights.weight[warp][t] * ratio / scale;  // now by the distance itself
        sum -= to_weight[warp][t] * ratio;
      }
      sum = sum_warp(sum) / in.length;
      for (int t = lane; t < in.length; t += WARP) {
        const T apart = even ? T(0) : weights.distance[warp][t];
        to_weight[warp][t] = apart > 0 ? (to_weight[warp][t] + sum) / apart : T(0);
      }
    }
    __syncthreads();
    const int pairs = 2 * in.channels, lanes = pairs < BLOCK ? BLOCK / pairs : 1, span = BLOCK / lanes;
    for (int first = 0; first < pairs; first += span) {  // a direction and a channel for each of `lanes` threads
      const int own = threadIdx.x % span, i = first + own, t0 = threadIdx.x / span;
      const int way = i / in.channels, c = i % in.channels;
      const bool there = i < pairs && t0 < lanes;
      T* to_centre = &sums[0][0];
      if (there) {
        const T *y = in.sequence(way, row) + c, centre = y[in.centre * in.channels];
        T *grad = grad_y + (y - in.y), total = 0;
#pragma unroll 4
        for (int t = t0; t < in.length; t += lanes) {
          const T pull = to_weight[way][t] * (y[t * in.channels] - centre);
          grad[t * in.channels] = grad[t * in.channels] * weights.weight[way][t] + pull;
          total += pull;
        }
        to_centre[t0 * span + own] = total;
      }
      __syncthreads();
      if (there && t0 == 0) {
        T total = 0;
        for (int k = 0; k < lanes; ++k) total += to_centre[k * span + own];
        grad_y[in.sequence(way, row) - in.y + in.centre * in.channels + c] -= total;
      }
      __syncthreads();
    }
  }
  T* out = parts + (Index)blockIdx.x * (2 * in.channels + 3);
  const auto write = [&](int n, T* to) {  // the first numbers of all warps, added up
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += BLOCK) {
      T total = 0;
#pragma unroll
      for (int w = 0; w < WARPS; ++w) total += sums[w][i];
      to[i] = total;
    }
    __syncthreads();
  };
#pragma unroll
  for (int k = 0; k < CHANNELS_EACH; ++k) sums[warp][k * WARP + lane] = to_gain[k];
  write(in.channels, out);
#pragma unroll
  for (int k = 0; k < CHANNELS_EACH; ++k) sums[warp][k * WARP + lane] = to_offset[k];
  write(in.channels, out + in.channels);
  if (lane == 0)
    for (int i = 0; i < 3; ++i) sums[warp][i] = to_attention[i];
  write(3, out + 2 * in.channels);
}

}  // namespace mim
