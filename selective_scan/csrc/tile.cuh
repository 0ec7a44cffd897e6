// One tile of channels in one block: who holds which state, the chunk of inputs in shared memory, sums over lanes.
#pragma once

#include "recurrence.h"

namespace mim {

using Index = long long;

constexpr int STEPS = 8, WARP = 32;

MIM_INLINE float root(float x) { return ::sqrtf(x); }
MIM_INLINE double root(double x) { return ::sqrt(x); }

// Without an index, which would move the pair to local memory.
template <class P>
MIM_INLINE P pick(const P (&pair)[2], int which) {
  return which ? pair[1] : pair[0];
}

// Up to two sequences of rows with parameters of their own, one after another in the batch.
template <class T>
struct Inputs {
  const T *u, *delta, *B, *C;
  const T *A[2], *D[2], *bias[2];  // D and bias may be null
  int softplus, batch, length, channels, states;
  int distance;  // numbers between two steps of B and C
  int each;      // rows that share parameters

  MIM_INLINE int kind(int row) const { return row >= each; }
};

// How a block shares its work, for states padded to P, a power of two.
template <int P, int MOST_STATES, int MOST_THREADS>
struct Layout {
  static constexpr int PADDED = P;
  static constexpr int EACH = P < MOST_STATES ? P : MOST_STATES;  // states of one thread
  static constexpr int SPLIT = P / EACH;
  static constexpr int THREADS = 64 * SPLIT < MOST_THREADS ? 64 * SPLIT : MOST_THREADS;
  static constexpr int CHANNELS = THREADS / SPLIT;
  static constexpr int WIDTH = WARP / SPLIT;  // channels of one warp
  static constexpr int WARPS = THREADS / WARP;
};

// Four states that are read at once.
template <class T>
struct alignas(16) Quad {
  T at[4];
};

// Which states of which channel a thread holds. Its quads of states lie SPLIT quads apart, so that the threads of a
// warp read neighbouring ones and each bank of shared memory once.
template <class S>
struct Place {
  int lane, warp, part, slot, channel;  // slot: the channel within the tile

  MIM_INLINE Place() {
    lane = threadIdx.x % WARP;
    warp = threadIdx.x / WARP;
    part = lane / S::WIDTH;
    slot = warp * S::WIDTH + lane % S::WIDTH;
    channel = blockIdx.y * S::CHANNELS + slot;
  }
  MIM_INLINE int quad(int i) const { return i * S::SPLIT + part; }
  MIM_INLINE int state(int j) const { return 4 * quad(j / 4) + j % 4; }
};

// Sums each of COUNT values over LANES lanes that lie STRIDE apart; this is lane k of them. As lanes halve, so do the
// values that a lane keeps, and `write(value, sum)` is called once for each value, by one lane.
template <int LANES, int STRIDE, int COUNT, class T, class Write>
MIM_INLINE void sum_lanes(T* values, int k, Write write) {
  constexpr int HELD = COUNT > LANES ? COUNT / LANES : 1, SHARED = LANES > COUNT ? LANES / COUNT : 1;
#pragma unroll
  for (int half = LANES / 2, count = COUNT / 2; half > 0; half /= 2, count /= 2) {
    const bool upper = k & half;
    if (count == 0) values[0] += __shfl_xor_sync(~0u, values[0], half * STRIDE);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const T kept = upper ? values[i + count] : values[i], given = upper ? values[i] : values[i + count];
      values[i] = kept + __shfl_xor_sync(~0u, given, half * STRIDE);
    }
  }
#pragma unroll
  for (int i = 0; i < HELD; ++i)
    if (k % SHARED == 0) write(k * COUNT / LANES + i, values[i]);
}

// In units of log 2, as `decay` takes it.
template <class T, class S>
MIM_INLINE void load_A(const Inputs<T>& in, const Place<S>& place, int kind, T* A) {
#pragma unroll
  for (int j = 0; j < S::EACH; ++j) {
    const int n = place.state(j);
    const bool there = place.channel < in.channels && n < in.states;
    A[j] = there ? pick(in.A, kind)[(Index)place.channel * in.states + n] * T(LOG2_E) : T(0);
  }
}

// The inputs of one chunk of one tile, in shared memory; channels and states that are padding are 0.
template <class T, class S>
struct Chunk {
  Quad<T> B[STEPS][S::PADDED / 4], C[STEPS][S::PADDED / 4];
  T u[STEPS][S::CHANNELS], step[STEPS][S::CHANNELS];
};

// What the backward pass adds to it: given and still to be written.
template <class T, class S>
struct GradientChunk {
  T y[STEPS][S::CHANNELS], slope[STEPS][S::CHANNELS];
  T to[2][STEPS][S::CHANNELS];  // by delta u, and by delta within the decay
};

// One thread's share in bringing chunks in: always the same channel, every SPLIT-th step from `first` on.
template <class T, class S>
struct Carrier {
  static constexpr int ITEMS = S::SPLIT < STEPS ? STEPS / S::SPLIT : 1;
  const Inputs<T>& in;
  int slot, first, channel;
  bool real;  // not padding

  MIM_INLINE explicit Carrier(const Inputs<T>& in) : in(in) {
    slot = threadIdx.x % S::CHANNELS;
    first = threadIdx.x / S::CHANNELS;
    channel = blockIdx.y * S::CHANNELS + slot;
    real = channel < in.channels;
  }
  MIM_INLINE T own(const T* of_channels) const { return real && of_channels ? of_channels[channel] : T(0); }
  MIM_INLINE Index at(int row, int t) const { return ((Index)row * in.length + t) * in.channels + channel; }

  // B or C of steps t0 to t0 + count of a row, on their way to shared memory in registers.
  struct FetchedStates {
    static constexpr int ITEMS = (STEPS * S::PADDED + S::THREADS - 1) / S::THREADS;
    T at[ITEMS];

    MIM_INLINE void fetch(const Carrier& c, const T* from, int row, int t0, int count) {
      const T* start = from + ((Index)row * c.in.length + t0) * c.in.distance;
#pragma unroll
      for (int j = 0; j < ITEMS; ++j) {
        const int i = threadIdx.x + j * S::THREADS, k = i / S::PADDED, n = i % S::PADDED;
        at[j] = k < count && n < c.in.states ? start[k * c.in.distance + n] : T(0);
      }
    }
    MIM_INLINE void put(Quad<T> (*to)[S::PADDED / 4]) const {
#pragma unroll
      for (int j = 0; j < ITEMS; ++j) {
        const int i = threadIdx.x + j * S::THREADS, k = i / S::PADDED, n = i % S::PADDED;
        if (k < STEPS) to[k][n / 4].at[n % 4] = at[j];
      }
    }
  };

  // The same of the inputs of each channel.
  template <bool GRADIENT>
  struct FetchedChannels {
    T u[ITEMS], raw[ITEMS], grad_y[GRADIENT ? ITEMS : 1];

    MIM_INLINE void fetch(const Carrier& c, int row, int t0, int count, const T* grad) {
      const T bias = c.own(pick(c.in.bias, c.in.kind(row)));
      const Index start = c.at(row, t0);
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) {
        const int k = c.first + i * S::SPLIT;
        const bool there = c.real && k < count;
        u[i] = there ? c.in.u[start + k * c.in.channels] : T(0);
        raw[i] = there ? c.in.delta[start + k * c.in.channels] + bias : T(0);
        if constexpr (GRADIENT) grad_y[i] = there ? grad[start + k * c.in.channels] : T(0);
      }
    }
    MIM_INLINE void put(const Carrier& c, int count, Chunk<T, S>& chunk, GradientChunk<T, S>* extra) const {
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) {
        const int k = c.first + i * S::SPLIT;
        if (k >= count) continue;
        chunk.u[k][c.slot] = u[i];
        chunk.step[k][c.slot] = c.in.softplus && c.real ? softplus(raw[i]) : raw[i];
        if constexpr (GRADIENT) {
          extra->y[k][c.slot] = grad_y[i];
          extra->slope[k][c.slot] = c.in.softplus ? softplus_slope(raw[i]) : T(1);
        }
      }
    }
  };

  MIM_INLINE void bring_states(const T* from, int row, int t0, int count, Quad<T> (*to)[S::PADDED / 4]) const {
    FetchedStates states;
    states.fetch(*this, from, row, t0, count);
    states.put(to);
  }

  // Steps t0 to t0 + count of a row; `grad_y` and `extra` for the backward pass only. All loads go out before any is
  // waited for.
  template <bool GRADIENT>
  MIM_INLINE void bring(int row, int t0, int count, Chunk<T, S>& chunk, const T* grad_y,
                        GradientChunk<T, S>* extra) const {
    FetchedChannels<GRADIENT> channels;
    channels.fetch(*this, row, t0, count, grad_y);
    channels.put(*this, count, chunk, extra);
  }
};

MIM_INLINE int steps_from(int t0, int length) { return length - t0 < STEPS ? length - t0 : STEPS; }

}  // namespace mim
