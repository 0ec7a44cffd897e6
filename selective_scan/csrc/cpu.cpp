// The selective scan on the CPU: rows of the batch over the cores, channels over the lanes of vector registers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "recurrence.h"

namespace {

using torch::stable::Tensor;

constexpr int64_t REGISTER_BYTES = 64;
// Rows of the batch are summed in this many groups, one after another, whatever the number of threads: so the gradients
// that are sums over the batch always have the same bits.
constexpr int64_t MAX_GROUPS = 64;

template <class T>
constexpr int64_t LANES = REGISTER_BYTES / sizeof(T);

template <class T>
struct Inputs {
  const T *u, *delta, *A, *B, *C, *D, *bias;  // D and bias may be null
  bool softplus;
  int64_t batch, length, channels, states;

  int64_t blocks() const { return (channels + LANES<T> - 1) / LANES<T>; }
};

// A as (block, state, lane), so that lanes lie together; lanes past the last channel are 0.
template <class T>
std::vector<T> pack_A(const Inputs<T>& in) {
  std::vector<T> packed(in.blocks() * in.states * LANES<T>, T(0));
  for (int64_t channel = 0; channel < in.channels; ++channel) {
    T* block = packed.data() + channel / LANES<T> * in.states * LANES<T> + channel % LANES<T>;
    for (int64_t n = 0; n < in.states; ++n) block[n * LANES<T>] = in.A[channel * in.states + n];
  }
  return packed;
}

// The values of one block of channels at one step of the sequence.
template <class T>
struct Lanes {
  alignas(REGISTER_BYTES) T value[LANES<T>];

  MIM_INLINE void fill(T x) {
    for (int64_t k = 0; k < LANES<T>; ++k) value[k] = x;
  }
  MIM_INLINE void load(const T* from, int64_t width) {
    if (width == LANES<T>) {
      for (int64_t k = 0; k < LANES<T>; ++k) value[k] = from[k];
    } else {
      for (int64_t k = 0; k < LANES<T>; ++k) value[k] = k < width ? from[k] : T(0);
    }
  }
  MIM_INLINE void store(T* to, int64_t width) const {
    if (width == LANES<T>) {
      for (int64_t k = 0; k < LANES<T>; ++k) to[k] = value[k];
    } else {
      for (int64_t k = 0; k < width; ++k) to[k] = value[k];
    }
  }
  MIM_INLINE T& operator[](int64_t k) { return value[k]; }
  MIM_INLINE const T& operator[](int64_t k) const { return value[k]; }
};

// One block of channels of one row of the batch.
template <class T>
struct Block {
  const Inputs<T>& in;
  int64_t row, first, width;
  Lanes<T> bias, D;

  Block(const Inputs<T>& inputs, int64_t row, int64_t block)
      : in(inputs), row(row), first(block * LANES<T>), width(std::min(LANES<T>, inputs.channels - first)) {
    bias.fill(T(0));
    D.fill(T(0));
    if (in.bias) bias.load(in.bias + first, width);
    if (in.D) D.load(in.D + first, width);
  }
  MIM_INLINE int64_t at(int64_t t) const { return (row * in.length + t) * in.channels + first; }
  MIM_INLINE void load(int64_t t, Lanes<T>& u, Lanes<T>& raw, Lanes<T>& step) const {
    u.load(in.u + at(t), width);
    raw.load(in.delta + at(t), width);
    for (int64_t k = 0; k < LANES<T>; ++k) raw[k] += bias[k];
    step = raw;
    if (in.softplus)
      for (int64_t k = 0; k < LANES<T>; ++k) step[k] = mim::softplus(raw[k]);
  }
};

template <class T>
void forward_block(const Block<T>& block, const T* A, T* h, T* y) {
  const auto& in = block.in;
  std::fill(h, h + in.states * LANES<T>, T(0));
  for (int64_t t = 0; t < in.length; ++t) {
    Lanes<T> u, raw, step, input, sum;
    block.load(t, u, raw, step);
    for (int64_t k = 0; k < LANES<T>; ++k) {
      input[k] = step[k] * u[k];
      sum[k] = block.D[k] * u[k];
    }
    const T* B = in.B + (block.row * in.length + t) * in.states;
    const T* C = in.C + (block.row * in.length + t) * in.states;
    for (int64_t n = 0; n < in.states; ++n) {
      T* state = h + n * LANES<T>;
      const T* An = A + n * LANES<T>;
      const T Bn = B[n], Cn = C[n];
      for (int64_t k = 0; k < LANES<T>; ++k) {
        state[k] = mim::next_state(state[k], mim::decay(step[k], An[k]), input[k], Bn);
        sum[k] += Cn * state[k];
      }
    }
    sum.store(y + block.at(t), block.width);
  }
}

// The sums over the lanes of LANES vectors at once, by halving: lane k of the result is the sum of vector k.
template <class T>
MIM_INLINE void sum_lanes(T* vectors, T* sums) {
#if defined(__GNUC__) && !defined(__clang__)
  typedef T Vector __attribute__((vector_size(REGISTER_BYTES)));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
  typedef Index Mask __attribute__((vector_size(REGISTER_BYTES)));
  auto* v = reinterpret_cast<Vector*>(vectors);
#pragma GCC unroll 4
  for (int64_t half = LANES<T> / 2; half > 0; half /= 2) {
    Mask left, right;
    for (int64_t k = 0; k < LANES<T>; ++k) {
      const bool second = k & half;
      left[k] = second ? LANES<T> + k - half : k;
      right[k] = second ? LANES<T> + k : k + half;
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < half; ++i)
      v[i] = __builtin_shuffle(v[i], v[i + half], left) + __builtin_shuffle(v[i], v[i + half], right);
  }
  for (int64_t k = 0; k < LANES<T>; ++k) sums[k] += v[0][k];
#else
  for (int64_t i = 0; i < LANES<T>; ++i)
    for (int64_t k = 0; k < LANES<T>; ++k) sums[i] += vectors[i * LANES<T> + k];
#endif
}

template <class T>
struct Gradients {
  T *u, *delta, *B, *C;
};

// Memory of one group of rows: the states and decays of a whole sequence for one block of channels, and the sums over
// the rows so far.
template <class T>
struct Scratch {
  std::vector<T> h, a, later, A, D, bias;  // h has one step more, the start
  explicit Scratch(const Inputs<T>& in)
      : h((in.length + 1) * in.states * LANES<T>),
        a(in.length * in.states * LANES<T>),
        later(in.states * LANES<T>),
        A(in.blocks() * in.states * LANES<T>, T(0)),
        D(in.blocks() * LANES<T>, T(0)),
        bias(in.blocks() * LANES<T>, T(0)) {}
};

template <class T>
void backward_block(const Block<T>& block, const T* A, const T* grad_y, const Gradients<T>& out, Scratch<T>& scratch) {
  const auto& in = block.in;
  const int64_t size = in.states * LANES<T>, sequence = block.row * in.length * in.states;
  std::fill(scratch.h.begin(), scratch.h.begin() + size, T(0));
  std::fill(scratch.later.begin(), scratch.later.end(), T(0));
  for (int64_t t = 0; t < in.length; ++t) {  // the states once more, all of them kept
    Lanes<T> u, raw, step, input;
    block.load(t, u, raw, step);
    for (int64_t k = 0; k < LANES<T>; ++k) input[k] = step[k] * u[k];
    const T* B = in.B + sequence + t * in.states;
    const T* before = scratch.h.data() + t * size;
    T *after = scratch.h.data() + (t + 1) * size, *a = scratch.a.data() + t * size;
    for (int64_t n = 0; n < in.states; ++n) {
      const T Bn = B[n];
#pragma GCC ivdep
      for (int64_t i = n * LANES<T>, k = 0; k < LANES<T>; ++k, ++i) {
        a[i] = mim::decay(step[k], A[i]);
        after[i] = mim::next_state(before[i], a[i], input[k], Bn);
      }
    }
  }
  T *grad_A = scratch.A.data() + block.first * in.states, *later = scratch.later.data();
  for (int64_t t = in.length - 1; t >= 0; --t) {
    Lanes<T> u, raw, step, input, gy, to_input, to_step;
    block.load(t, u, raw, step);
    for (int64_t k = 0; k < LANES<T>; ++k) input[k] = step[k] * u[k];
    gy.load(grad_y + block.at(t), block.width);
    to_input.fill(T(0));
    to_step.fill(T(0));
    const T *B = in.B + sequence + t * in.states, *C = in.C + sequence + t * in.states;
    const T *before = scratch.h.data() + t * size, *after = before + size, *a = scratch.a.data() + t * size;
    for (int64_t n0 = 0; n0 < in.states; n0 += LANES<T>) {  // as many states as lanes, so that sums are taken together
      alignas(REGISTER_BYTES) T to_B[LANES<T> * LANES<T>], to_C[LANES<T> * LANES<T>];
      const int64_t count = std::min(LANES<T>, in.states - n0);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t n = n0 + j;
        const T Bn = B[n], Cn = C[n];
        T *to_Bj = to_B + j * LANES<T>, *to_Cj = to_C + j * LANES<T>;
#pragma GCC ivdep
        for (int64_t i = n * LANES<T>, k = 0; k < LANES<T>; ++k, ++i) {
          const auto g = mim::step_gradient(later[i], gy[k], a[i], before[i], after[i], input[k], Bn, Cn);
          later[i] = g.to_previous;
          to_Bj[k] = g.to_B;
          to_Cj[k] = g.to_C;
          to_input[k] += g.to_input;
          to_step[k] += g.to_exponent * A[i];
          grad_A[i] += g.to_exponent * step[k];
        }
      }
      std::fill(to_B + count * LANES<T>, to_B + LANES<T> * LANES<T>, T(0));
      std::fill(to_C + count * LANES<T>, to_C + LANES<T> * LANES<T>, T(0));
      alignas(REGISTER_BYTES) T sum_B[LANES<T>] = {}, sum_C[LANES<T>] = {};
      sum_lanes(to_B, sum_B);
      sum_lanes(to_C, sum_C);
      T *grad_B = out.B + sequence + t * in.states + n0, *grad_C = out.C + sequence + t * in.states + n0;
      for (int64_t j = 0; j < count; ++j) {
        grad_B[j] += sum_B[j];
        grad_C[j] += sum_C[j];
      }
    }
    T *grad_D = scratch.D.data() + block.first, *grad_bias = scratch.bias.data() + block.first;
    Lanes<T> grad_u, grad_delta;
    for (int64_t k = 0; k < LANES<T>; ++k) {
      grad_u[k] = to_input[k] * step[k] + block.D[k] * gy[k];
      grad_delta[k] = to_step[k] + to_input[k] * u[k];
      grad_D[k] += gy[k] * u[k];
    }
    if (in.softplus)
      for (int64_t k = 0; k < LANES<T>; ++k) grad_delta[k] *= mim::softplus_slope(raw[k]);
    for (int64_t k = 0; k < LANES<T>; ++k) grad_bias[k] += grad_delta[k];
    grad_u.store(out.u + block.at(t), block.width);
    grad_delta.store(out.delta + block.at(t), block.width);
  }
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
Inputs<T> inputs_of(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                    const std::optional<Tensor>& D, const std::optional<Tensor>& bias, bool softplus) {
  return {data<T>(u), data<T>(delta), data<T>(A), data<T>(B), data<T>(C), D ? data<T>(*D) : nullptr,
          bias ? data<T>(*bias) : nullptr, softplus, u.size(0), u.size(1), u.size(2), A.size(1)};
}

template <class T>
void run_forward(const Inputs<T>& in, T* y) {
  const auto A = pack_A(in);
  torch::stable::parallel_for(0, in.batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> h(in.states * LANES<T>);
    for (int64_t row = begin; row < end; ++row)
      for (int64_t block = 0; block < in.blocks(); ++block)
        forward_block(Block<T>(in, row, block), A.data() + block * in.states * LANES<T>, h.data(), y);
  });
}

template <class T>
void run_backward(const Inputs<T>& in, const T* grad_y, const Gradients<T>& out, T* grad_A, T* grad_D, T* grad_bias) {
  const auto A = pack_A(in);
  const int64_t groups = std::min(MAX_GROUPS, in.batch);
  std::vector<std::vector<T>> sums_A(groups), sums_D(groups), sums_bias(groups);
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      Scratch<T> scratch(in);
      for (int64_t row = group * in.batch / groups; row < (group + 1) * in.batch / groups; ++row)
        for (int64_t block = 0; block < in.blocks(); ++block)
          backward_block(Block<T>(in, row, block), A.data() + block * in.states * LANES<T>, grad_y, out, scratch);
      sums_A[group].swap(scratch.A);
      sums_D[group].swap(scratch.D);
      sums_bias[group].swap(scratch.bias);
    }
  });
  for (int64_t channel = 0; channel < in.channels; ++channel) {
    const int64_t block = channel / LANES<T> * in.states * LANES<T> + channel % LANES<T>;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t n = 0; n < in.states; ++n)
        grad_A[channel * in.states + n] += sums_A[group][block + n * LANES<T>];
      if (grad_D) grad_D[channel] += sums_D[group][channel];
      if (grad_bias) grad_bias[channel] += sums_bias[group][channel];
    }
  }
}

bool is_double(const Tensor& tensor) { return tensor.scalar_type() == torch::headeronly::ScalarType::Double; }

// All tensors contiguous, on the CPU, of one type, float or double; the Python side sees to it.
Tensor forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, std::optional<Tensor> D,
               std::optional<Tensor> bias, bool softplus) {
  Tensor y = torch::stable::empty_like(u);
  if (is_double(u))
    run_forward(inputs_of<double>(u, delta, A, B, C, D, bias, softplus), data<double>(y));
  else
    run_forward(inputs_of<float>(u, delta, A, B, C, D, bias, softplus), data<float>(y));
  return y;
}

Tensor zeros_like(const Tensor& tensor) {
  Tensor zeros = torch::stable::empty_like(tensor);
  torch::stable::zero_(zeros);
  return zeros;
}

using Seven = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of u, delta, A, B, C, D and the bias; zeros of A's first column's size where D or the bias is absent.
Seven backward(Tensor grad_y, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, std::optional<Tensor> D,
               std::optional<Tensor> bias, bool softplus) {
  Tensor grad_u = torch::stable::empty_like(u), grad_delta = torch::stable::empty_like(delta);
  Tensor grad_A = zeros_like(A), grad_B = zeros_like(B), grad_C = zeros_like(C);
  Tensor grad_D = torch::stable::new_zeros(u, {u.size(2)}), grad_bias = torch::stable::new_zeros(u, {u.size(2)});
  if (is_double(u))
    run_backward<double>(inputs_of<double>(u, delta, A, B, C, D, bias, softplus), data<double>(grad_y),
                         {data<double>(grad_u), data<double>(grad_delta), data<double>(grad_B), data<double>(grad_C)},
                         data<double>(grad_A), data<double>(grad_D), data<double>(grad_bias));
  else
    run_backward<float>(inputs_of<float>(u, delta, A, B, C, D, bias, softplus), data<float>(grad_y),
                        {data<float>(grad_u), data<float>(grad_delta), data<float>(grad_B), data<float>(grad_C)},
                        data<float>(grad_A), data<float>(grad_D), data<float>(grad_bias));
  return {grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY(mim_cpu, m) {
  m.def("forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, bool softplus) -> Tensor");
  m.def(
      "backward(Tensor grad_y, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, "
      "bool softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mim_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
}
