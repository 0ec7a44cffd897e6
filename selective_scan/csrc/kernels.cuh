// The selective scan on CUDA, and its gradients. One block takes a tile of channels; the states of a channel lie in the
// registers of SPLIT threads of one warp. Time goes in chunks of STEPS, whose inputs the block keeps in shared memory.
//
// Compiles under nvcc and NVRTC without any header but ours. No sum uses atomics: each has a fixed order.
#include "around_scan.cuh"
#include "attention.cuh"
#include "tile.cuh"

namespace mim {

template <int P>
using ForwardLayout = Layout<P, 8, 128>;
template <int P>
using BackwardLayout = Layout<P, 4, 256>;

// Gradients of D and the bias come as one part of (channels) for each row group and each of SPLIT threads, that of A as
// one of (channels, states) for each row group, those of B and C as one of (batch, length, `distance`) for each tile.
template <class T>
struct Gradients {
  T *u, *delta, *A, *B, *C, *D, *bias;  // D and bias may be null
  int distance;                         // numbers between two steps of B and C
  int groups;                           // of the rows that share parameters
};

// y of one row of the batch (grid x) and one tile of channels (grid y).
template <class T, int P>
MIM_INLINE void forward(const Inputs<T>& in, T* y) {
  using S = ForwardLayout<P>;
  __shared__ Chunk<T, S> chunk;
  const Place<S> place;
  const Carrier<T, S> carrier(in);
  const int row = blockIdx.x, kind = in.kind(row);
  const T D =
      pick(in.D, kind) && place.part == 0 && place.channel < in.channels ? pick(in.D, kind)[place.channel] : T(0);
  T A[S::EACH], h[S::EACH] = {};
  load_A(in, place, kind, A);
  typename Carrier<T, S>::template FetchedChannels<false> channels;
  typename Carrier<T, S>::FetchedStates B, C;
  const auto fetch = [&](int t0) {
    const int count = steps_from(t0, in.length);
    channels.fetch(carrier, row, t0, count, nullptr);
    B.fetch(carrier, in.B, row, t0, count);
    C.fetch(carrier, in.C, row, t0, count);
  };
  fetch(0);
  for (int t0 = 0; t0 < in.length; t0 += STEPS) {
    const int count = steps_from(t0, in.length);
    __syncthreads();  // the last chunk has been read
    channels.put(carrier, count, chunk, nullptr);
    B.put(chunk.B);
    C.put(chunk.C);
    if (t0 + STEPS < in.length) fetch(t0 + STEPS);  // on its way while this chunk is scanned
    __syncthreads();
    T* out = y + ((Index)row * in.length + t0) * in.channels + place.channel;
#pragma unroll 2
    for (int k = 0; k < count; ++k, out += in.channels) {
      const T u = chunk.u[k][place.slot], step = chunk.step[k][place.slot], input = step * u;
      T sum = D * u;
#pragma unroll
      for (int i = 0; i < S::EACH / 4; ++i) {
        const Quad<T> B = chunk.B[k][place.quad(i)], C = chunk.C[k][place.quad(i)];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          T& state = h[4 * i + j];
          state = next_state(state, decay(step, A[4 * i + j]), input, B.at[j]);
          sum += C.at[j] * state;
        }
      }
      sum_lanes<S::SPLIT, S::WIDTH, 1>(&sum, place.part, [&](int, T total) {
        if (place.channel < in.channels) *out = total;
      });
    }
  }
}

// Gradients of one group of rows (grid x) and one tile of channels (grid y). Per row: the states once forward, those
// between chunks kept in `checkpoints`; then chunk by chunk from the last, the states of a chunk again in registers.
template <class T, int P>
MIM_INLINE void backward(const Inputs<T>& in, const T* grad_y, const Gradients<T>& out, T* checkpoints) {
  using S = BackwardLayout<P>;
  constexpr int EACH = S::EACH;
  constexpr int GATHERED = 128 / P < STEPS ? 128 / P : STEPS;  // steps whose gradients by B and C are summed together
  __shared__ Chunk<T, S> chunk;
  __shared__ GradientChunk<T, S> extra;
  __shared__ T sums[GATHERED][S::WARPS][2][P];  // by B, by C
  static_assert(EACH == 4, "the order in `sums` is by quads");

  const Place<S> place;
  const Carrier<T, S> carrier(in);
  constexpr int KEPT = EACH * S::THREADS;  // states of the block
  const Index group = blockIdx.x;
  const int last = (in.length - 1) / STEPS;  // chunk
  T* kept = checkpoints + (group * gridDim.y + blockIdx.y) * last * KEPT + threadIdx.x;
  T A[EACH], grad_A[EACH] = {}, grad_D = 0, grad_bias = 0;
  const int kind = group >= out.groups, own_group = group - kind * out.groups, first_row = kind * in.each;
  load_A(in, place, kind, A);

  const int rows_end = first_row + (Index)(own_group + 1) * in.each / out.groups;
  for (int row = first_row + (Index)own_group * in.each / out.groups; row < rows_end; ++row) {
    T start[EACH] = {}, later[EACH] = {};
    for (int t0 = 0; t0 < last * STEPS; t0 += STEPS, kept += KEPT) {
      carrier.template bring<false>(row, t0, STEPS, chunk, nullptr, nullptr);
      carrier.bring_states(in.B, row, t0, STEPS, chunk.B);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < STEPS; ++k) {
        const T step = chunk.step[k][place.slot], input = step * chunk.u[k][place.slot];
        const Quad<T> B = chunk.B[k][place.part];
#pragma unroll
        for (int j = 0; j < EACH; ++j) start[j] = next_state(start[j], decay(step, A[j]), input, B.at[j]);
      }
#pragma unroll
      for (int j = 0; j < EACH; ++j) kept[j * S::THREADS] = start[j];
      __syncthreads();
    }

    for (int t0 = last * STEPS; t0 >= 0; t0 -= STEPS) {
      const int count = steps_from(t0, in.length);
      carrier.template bring<true>(row, t0, count, chunk, grad_y, &extra);
      carrier.bring_states(in.B, row, t0, count, chunk.B);
      carrier.bring_states(in.C, row, t0, count, chunk.C);
      T h[STEPS + 1][EACH], a[STEPS][EACH];  // h[k]: before step k
      if (t0 > 0) kept -= KEPT;
#pragma unroll
      for (int j = 0; j < EACH; ++j) h[0][j] = t0 > 0 ? kept[j * S::THREADS] : T(0);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < STEPS; ++k) {
        if (k >= count) break;
        const T step = chunk.step[k][place.slot], input = step * chunk.u[k][place.slot];
        const Quad<T> B = chunk.B[k][place.part];
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
          a[k][j] = decay(step, A[j]);
          h[k + 1][j] = next_state(h[k][j], a[k][j], input, B.at[j]);
        }
      }
#pragma unroll
      for (int k0 = STEPS - GATHERED; k0 >= 0; k0 -= GATHERED) {
        if (k0 >= count) continue;
#pragma unroll
        for (int k = k0 + GATHERED - 1; k >= k0; --k) {
          if (k >= count) continue;
          const T step = chunk.step[k][place.slot], input = step * chunk.u[k][place.slot];
          const T gy = extra.y[k][place.slot];
          const Quad<T> B = chunk.B[k][place.part], C = chunk.C[k][place.part];
          T values[2 * EACH], to[2] = {};
#pragma unroll
          for (int j = 0; j < EACH; ++j) {
            const auto g = step_gradient(later[j], gy, a[k][j], h[k][j], h[k + 1][j], input, B.at[j], C.at[j]);
            later[j] = g.to_previous;
            values[j] = g.to_B;
            values[EACH + j] = g.to_C;
            to[0] += g.to_input;
            to[1] += g.to_exponent * A[j];
            grad_A[j] += g.to_exponent * step;
          }
          sum_lanes<S::SPLIT, S::WIDTH, 2>(to, place.part, [&](int i, T sum) { extra.to[i][k][place.slot] = sum; });
          sum_lanes<S::WIDTH, 1, 2 * EACH>(values, place.lane % S::WIDTH, [&](int i, T sum) {
            sums[k - k0][place.warp][i / EACH][EACH * place.part + i % EACH] = sum;
          });
        }
        __syncthreads();
        for (int i = threadIdx.x; i < GATHERED * 2 * P; i += S::THREADS) {
          const int k = i / (2 * P), which = i / P % 2, n = i % P;
          if (k0 + k >= count || n >= in.states) continue;
          T sum = 0;
#pragma unroll
          for (int warp = 0; warp < S::WARPS; ++warp) sum += sums[k][warp][which][n];
          const Index step = ((Index)blockIdx.y * in.batch + row) * in.length + t0 + k0 + k;
          (which ? out.C : out.B)[step * out.distance + n] = sum;
        }
        if (k0 > 0) __syncthreads();
      }
      const T D = carrier.own(pick(in.D, kind));
      for (int k = carrier.first; k < count; k += S::SPLIT) {
        const T u = chunk.u[k][carrier.slot], gy = extra.y[k][carrier.slot], to_input = extra.to[0][k][carrier.slot];
        const T grad_delta = (extra.to[1][k][carrier.slot] * T(LN_2) + to_input * u) * extra.slope[k][carrier.slot];
        grad_D += gy * u;
        grad_bias += grad_delta;
        if (!carrier.real) continue;
        const Index at = carrier.at(row, t0 + k);
        out.u[at] = to_input * chunk.step[k][carrier.slot] + D * gy;
        out.delta[at] = grad_delta;
      }  // no barrier: the next chunk's values replace those that this thread alone has used since the last one
    }
  }

#pragma unroll
  for (int j = 0; j < EACH; ++j) {
    const int n = place.state(j);
    if (place.channel < in.channels && n < in.states)
      out.A[(group * in.channels + place.channel) * in.states + n] = grad_A[j];
  }
  const Index part = (group * S::SPLIT + carrier.first) * in.channels + carrier.channel;
  if (carrier.real && out.D) out.D[part] = grad_D;
  if (carrier.real && out.bias) out.bias[part] = grad_bias;
}

}  // namespace mim

// At least this many threads of a multiprocessor can be busy at once, which bounds the registers of each.
#define BUSY(T, P) (sizeof(T) == 4 && P >= 16 ? 512 : 256)

#define KERNELS_OF(T, P)                                                                                  \
  extern "C" __global__ void __launch_bounds__(mim::ForwardLayout<P>::THREADS)                            \
      mim_forward_##T##_##P(mim::Inputs<T> in, T* y) {                                                    \
    mim::forward<T, P>(in, y);                                                                            \
  }                                                                                                       \
  extern "C" __global__ void __launch_bounds__(mim::BackwardLayout<P>::THREADS,                           \
                                               BUSY(T, P) / mim::BackwardLayout<P>::THREADS)              \
      mim_backward_##T##_##P(mim::Inputs<T> in, const T* grad_y, mim::Gradients<T> out, T* checkpoints) { \
    mim::backward<T, P>(in, grad_y, out, checkpoints);                                                    \
  }
#define KERNELS(P) KERNELS_OF(float, P) KERNELS_OF(double, P)
#define AROUND_SCAN(T, NAME, ...) extern "C" __global__ void __launch_bounds__(mim::BLOCK) mim_##NAME##_##T(__VA_ARGS__)
#define KERNELS_AROUND_SCAN(T)                                                                    \
  AROUND_SCAN(T, convolve, mim::Convolution<T> in, T* u) { mim::convolve(in, u); }                \
  AROUND_SCAN(T, convolve_backward, mim::Convolution<T> in, T* grad_u, T* parts) {                \
    mim::convolve_backward(in, grad_u, parts);                                                    \
  }                                                                                               \
  AROUND_SCAN(T, gather_gradients, mim::Convolution<T> in, const T* grad, T* grad_tokens) {       \
    mim::gather_gradients(in, grad, grad_tokens);                                                 \
  }                                                                                               \
  AROUND_SCAN(T, merge, mim::Merging<T> in, T* merged) { mim::merge(in, merged); }                \
  AROUND_SCAN(T, merge_backward, mim::Merging<T> in, const T* grad_merged, T* grad_y, T* parts) { \
    mim::merge_backward(in, grad_merged, grad_y, parts);                                          \
  }

#define KERNELS_OF_ATTENTION(T)                                                                 \
  AROUND_SCAN(T, attend, mim::Attention<T> in, T* y) { mim::attend(in, y); }                    \
  AROUND_SCAN(T, attend_backward, mim::Attention<T> in, const T* grad_y, T* grad_x, T* parts) { \
    mim::attend_backward(in, grad_y, grad_x, parts);                                            \
  }

KERNELS_OF_ATTENTION(float)
KERNELS_OF_ATTENTION(double)
KERNELS_AROUND_SCAN(float)
KERNELS_AROUND_SCAN(double)

KERNELS(4)
KERNELS(8)
KERNELS(16)
KERNELS(32)
KERNELS(64)
KERNELS(128)
