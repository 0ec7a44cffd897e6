// What the CPU back end computes, as operators of PyTorch: the selective scan, the convolution before it, and both
// directions of a T-Mamba without gradients. Rows of the batch go over the cores.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "conv.h"
#include "merge.h"
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

template <class T>
void run_conv_backward(const ConvInputs<T>& in, const T* grad_out, T* grad_tokens, T* grad_weight, T* grad_bias) {
  const int64_t groups = std::min(MAX_GROUPS, in.batch);
  std::vector<std::optional<Vectors<T>>> sums(groups);
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    Vectors<T> x(in.length + 2), grad_z(in.length + 2);
    for (int64_t group = begin; group < end; ++group) {
      Vectors<T> sum(in.blocks() * (TAPS + 1));
      for (int64_t row = group * in.batch / groups; row < (group + 1) * in.batch / groups; ++row)
        conv_row_backward(in, row, grad_out, grad_tokens, x, grad_z, sum);
      sums[group] = std::move(sum);
    }
  });
  for (int64_t channel = 0; channel < in.channels; ++channel) {
    const int64_t first = channel / LANES<T> * (TAPS + 1), lane = channel % LANES<T>;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t k = 0; k < TAPS; ++k) grad_weight[k * in.channels + channel] += (*sums[group])[first + k][lane];
      grad_bias[channel] += (*sums[group])[first + TAPS][lane];
    }
  }
}

template <class T>
void run_merge(const MergeInputs<T>& m, T* out) {
  const auto& in = m.ahead.in;
  Packed<T> ahead(m.ahead), behind(m.behind);
  const int64_t merged = m.halves ? 2 * in.length - 1 : in.length;
  torch::stable::parallel_for(0, in.batch, 1, [&](int64_t begin, int64_t end) {
    Merger<T> merger(m);
    for (int64_t row = begin; row < end; ++row) {
      scan_direction(m.ahead, ahead, merger.s_ahead, row, merger.ahead);
      scan_direction(m.behind, behind, merger.s_behind, row, merger.behind);
      decay_weights(m, merger.ahead, merger.w_ahead);
      decay_weights(m, merger.behind, merger.w_behind);
      merger.merge_row(row, out + row * merged * in.channels);
    }
  });
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

template <class T>
ConvInputs<T> conv_inputs_of(const Tensor& tokens, const Tensor& order, const Tensor& weight, const Tensor& bias) {
  return {data<T>(tokens), data<T>(weight), data<T>(bias), data<int64_t>(order), tokens.size(0), tokens.size(1),
          tokens.size(2), order.size(0), order.size(1)};
}

template <class T>
void conv_rows(const ConvInputs<T>& in, T* out) {
  torch::stable::parallel_for(0, in.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) conv_row(in, row, out);
  });
}

Tensor conv(Tensor tokens, Tensor order, Tensor weight, Tensor bias) {
  Tensor out = torch::stable::new_empty(tokens, {tokens.size(0) * order.size(0), order.size(1), tokens.size(2)});
  if (is_double(tokens))
    conv_rows(conv_inputs_of<double>(tokens, order, weight, bias), data<double>(out));
  else
    conv_rows(conv_inputs_of<float>(tokens, order, weight, bias), data<float>(out));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> conv_backward(Tensor grad_out, Tensor tokens, Tensor order, Tensor weight,
                                                 Tensor bias) {
  Tensor grad_tokens = zeros_like(tokens), grad_weight = zeros_like(weight), grad_bias = zeros_like(bias);
  if (is_double(tokens))
    run_conv_backward(conv_inputs_of<double>(tokens, order, weight, bias), data<double>(grad_out),
                      data<double>(grad_tokens), data<double>(grad_weight), data<double>(grad_bias));
  else
    run_conv_backward(conv_inputs_of<float>(tokens, order, weight, bias), data<float>(grad_out),
                      data<float>(grad_tokens), data<float>(grad_weight), data<float>(grad_bias));
  return {grad_tokens, grad_weight, grad_bias};
}

// u, projected, dt_weight, dt_bias, A and D of one direction.
template <class T>
Direction<T> direction_of(const std::vector<Tensor>& d) {
  return {{data<T>(d[0]), nullptr, data<T>(d[4]), nullptr, nullptr, data<T>(d[5]), data<T>(d[3]), true, d[0].size(0),
           d[0].size(1), d[0].size(2), d[4].size(1)},
          data<T>(d[1]),
          data<T>(d[2]),
          d[2].size(1)};
}

template <class T>
void merge_as(const std::vector<Tensor>& ahead, const std::vector<Tensor>& behind, const Tensor& to_ahead,
              const Tensor& to_behind, const Tensor& index_weight,
              const Tensor& norm_weight, const Tensor& norm_bias, const std::optional<Tensor>& attention,
              int64_t centre, bool by_feature, bool halves, double eps, Tensor& out) {
  run_merge<T>({direction_of<T>(ahead), direction_of<T>(behind), data<int64_t>(to_ahead),
                data<int64_t>(to_behind), to_ahead.size(0), data<T>(index_weight), data<T>(norm_weight),
                data<T>(norm_bias), attention ? data<T>(*attention) : nullptr, centre, by_feature, halves, T(eps)},
               data<T>(out));
}

Tensor merge(std::vector<Tensor> ahead, std::vector<Tensor> behind, Tensor to_ahead, Tensor to_behind,
             Tensor index_weight, Tensor norm_weight, Tensor norm_bias, std::optional<Tensor> attention,
             int64_t centre, bool by_feature, bool halves, double eps) {
  const Tensor& u = ahead[0];
  const int64_t length = halves ? 2 * u.size(1) - 1 : u.size(1);
  Tensor out = torch::stable::new_empty(u, {u.size(0), length, u.size(2)});
  (is_double(u) ? merge_as<double> : merge_as<float>)(ahead, behind, to_ahead, to_behind, index_weight, norm_weight,
                                                     norm_bias, attention, centre, by_feature, halves, eps, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(mim_cpu, m) {
  m.def("forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, bool softplus) -> Tensor");
  m.def(
      "backward(Tensor grad_y, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, "
      "bool softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("conv(Tensor tokens, Tensor order, Tensor weight, Tensor bias) -> Tensor");
  m.def(
      "conv_backward(Tensor grad_out, Tensor tokens, Tensor order, Tensor weight, Tensor bias) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "merge(Tensor[] ahead, Tensor[] behind, Tensor to_ahead, Tensor to_behind, Tensor index_weight, "
      "Tensor norm_weight, Tensor norm_bias, Tensor? attention, int centre, bool by_feature, bool halves, float eps) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mim_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
  m.impl("conv", TORCH_BOX(&conv));
  m.impl("conv_backward", TORCH_BOX(&conv_backward));
  m.impl("merge", TORCH_BOX(&merge));
}
