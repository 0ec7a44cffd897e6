// The selective scan on the CPU, as operators of PyTorch: rows of the batch over the cores.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "rows.h"

namespace {

using torch::stable::Tensor;
using namespace mim;

// Rows of the batch are summed in this many groups, one after another, whatever the number of threads: so the gradients
// that are sums over the batch always have the same bits.
constexpr int64_t MAX_GROUPS = 64;

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
void run_forward(const Inputs<T>& in, T* out) {
  auto A = pack_A(in);
  torch::stable::parallel_for(0, in.batch, 1, [&](int64_t begin, int64_t end) {
    Sequence<T> s(in);
    Vectors<T> y(in.length);
    for (int64_t row = begin; row < end; ++row) {
      s.take_row(row);
      for (int64_t block = 0; block < in.blocks(); ++block) {
        s.take_block(block);
        forward_block(s, A.at(block * in.padded_states()), y.at(0));
        for (int64_t t = 0; t < in.length; ++t) store(out + s.at(t), y[t], s.width);
      }
    }
  });
}

template <class T>
void run_backward(const Inputs<T>& in, const T* grad_y, const Gradients<T>& out, T* grad_A, T* grad_D, T* grad_bias) {
  auto A = pack_A(in);
  const int64_t groups = std::min(MAX_GROUPS, in.batch), N = in.padded_states();
  std::vector<std::optional<Vectors<T>>> sums_A(groups), sums_D(groups), sums_bias(groups);
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      Group<T> s(in);
      for (int64_t row = group * in.batch / groups; row < (group + 1) * in.batch / groups; ++row)
        backward_row(s, row, A, grad_y, out);
      sums_A[group] = std::move(s.A);
      sums_D[group] = std::move(s.D_sum);
      sums_bias[group] = std::move(s.bias_sum);
    }
  });
  for (int64_t channel = 0; channel < in.channels; ++channel) {
    const int64_t block = channel / LANES<T>, lane = channel % LANES<T>;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t n = 0; n < in.states; ++n)
        grad_A[channel * in.states + n] += (*sums_A[group])[block * N + n][lane];
      if (grad_D) grad_D[channel] += (*sums_D[group])[block][lane];
      if (grad_bias) grad_bias[channel] += (*sums_bias[group])[block][lane];
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
