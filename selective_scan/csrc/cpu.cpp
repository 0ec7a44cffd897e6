// What the CPU back end computes, as operators of PyTorch: the selective scan, and a T-Mamba's scans with all that is
// around them. Rows of the batch go over the cores.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "cross_scan.h"
#include "rows.h"

namespace {

using torch::stable::Tensor;
using namespace mim;

// Rows of the batch are summed in this many groups, one after another, whatever the number of threads: so the gradients
// that are sums over the batch always have the same bits.
constexpr int64_t MAX_GROUPS = 32;

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
  auto A = pack_A(in.A, in.channels, in.states);
  torch::stable::parallel_for(0, in.batch, 1, [&](int64_t begin, int64_t end) {
    Place<T> place(in);
    Block<T> s(in.length, in.states, in.padded_states(), place.B.data(), place.C.data());
    Vectors<T> y(in.length);
    for (int64_t row = begin; row < end; ++row) {
      place.take_row(row);
      for (int64_t block = 0; block < in.blocks(); ++block) {
        place.take_block(block, s);
        forward_block(s, A.at(block * s.states), y.at(0));
        for (int64_t t = 0; t < in.length; ++t) store(out + place.at(t), y[t], place.width);
      }
    }
  });
}

template <class T>
void run_backward(const Inputs<T>& in, const T* grad_y, const Gradients<T>& out, T* grad_A, T* grad_D, T* grad_bias) {
  auto A = pack_A(in.A, in.channels, in.states);
  const int64_t groups = std::min(MAX_GROUPS, in.batch), N = in.padded_states();
  std::vector<std::optional<Vectors<T>>> sums_A(groups), sums_D(groups), sums_bias(groups);
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      Group<T> s(in);
      for (int64_t row = group * in.batch / groups; row < (group + 1) * in.batch / groups; ++row)
        s.back_through_row(row, A, grad_y, out);
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

// conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A and D of one direction, or their gradients.
template <class T>
Parameters<T> parameters_of(const std::vector<Tensor>& d) {
  return {data<T>(d[0]), data<T>(d[1]), data<T>(d[2]), data<T>(d[3]), data<T>(d[4]), data<T>(d[5]), data<T>(d[6])};
}

// What the two operators are given alike: tensors in the order of `Given`, and options.
struct Given {
  Tensor tokens;
  std::vector<Tensor> ahead, behind;
  Tensor ahead_order, behind_order, index_weight, norm_weight, norm_bias;
  std::optional<Tensor> attention, score;
  int64_t centre;
  bool by_feature, halves;
  double eps;

  template <class T>
  CrossScan<T> as() const {
    const int64_t channels = tokens.size(2), length = ahead_order.size(1);
    return {{tokens.size(0), tokens.size(1), channels, ahead[5].size(1), ahead[3].size(1), ahead_order.size(0), length},
            {channels, length, data<T>(index_weight), data<T>(norm_weight), data<T>(norm_bias),
             attention ? data<T>(*attention) : nullptr, centre, by_feature, halves, T(eps)},
            {channels, halves ? 2 * length - 1 : length, score ? score->size(0) : 0},
            data<T>(tokens),
            score ? data<T>(*score) : nullptr,
            data<int64_t>(ahead_order),
            data<int64_t>(behind_order)};
  }
};

template <class T>
void run_cross_scan(const Given& given, T* out, T* kept) {
  const auto c = given.as<T>();
  AllWeights<T> weights(c, parameters_of<T>(given.ahead), parameters_of<T>(given.behind));
  torch::stable::parallel_for(0, c.n.batch, 1, [&](int64_t begin, int64_t end) {
    scan_samples(c, weights, begin, end, out, kept);
  });
}

template <class T>
void run_cross_scan_backward(const Given& given, const T* grad_out, const T* kept, T* grad_tokens,
                             const std::vector<Tensor>& grad_ahead, const std::vector<Tensor>& grad_behind,
                             T* grad_norm_weight, T* grad_norm_bias, T* grad_attention, T* grad_score) {
  const auto c = given.as<T>();
  AllWeights<T> weights(c, parameters_of<T>(given.ahead), parameters_of<T>(given.behind));
  const int64_t groups = std::min(MAX_GROUPS, c.n.batch);
  std::vector<std::unique_ptr<Sums<T>>> sums(groups);
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    BackThroughSamples<T> back(c, weights);
    for (int64_t group = begin; group < end; ++group) {
      sums[group] = std::make_unique<Sums<T>>(c);
      back.run(group * c.n.batch / groups, (group + 1) * c.n.batch / groups, grad_out, kept, grad_tokens, *sums[group]);
    }
  });
  if (groups == 0) return;
  Sums<T>& sum = *sums[0];
  for (int64_t group = 1; group < groups; ++group) sum.add(*sums[group]);
  const auto give = [](T& number, T& place) { number = place; };
  Packed<T>::visit(c.n, sum.ahead, parameters_of<T>(grad_ahead), give);
  Packed<T>::visit(c.n, sum.behind, parameters_of<T>(grad_behind), give);
  std::copy_n(numbers(sum.merge.gain), c.n.channels, grad_norm_weight);
  std::copy_n(numbers(sum.merge.offset), c.n.channels, grad_norm_bias);
  if (grad_attention)
    for (int64_t i = 0; i < 3; ++i) grad_attention[i] = sum_of<T>(sum.merge.attention[i]);
  if (grad_score) write(c.n, c.l.averages, sum.score, grad_score);
}

// The merged tokens, and where asked for what the way back needs, else an empty tensor.
std::tuple<Tensor, Tensor> cross_scan(Tensor tokens, std::vector<Tensor> ahead, std::vector<Tensor> behind,
                                      Tensor ahead_order, Tensor behind_order, Tensor index_weight, Tensor norm_weight,
                                      Tensor norm_bias, std::optional<Tensor> attention, std::optional<Tensor> score,
                                      int64_t centre, bool by_feature, bool halves, double eps, bool keep) {
  const Given given{tokens,    ahead,     behind, ahead_order, behind_order, index_weight, norm_weight,
                    norm_bias, attention, score,  centre,      by_feature,   halves,       eps};
  const int64_t rows = tokens.size(0) * ahead_order.size(0), length = ahead_order.size(1), channels = tokens.size(2);
  const int64_t n_out = score ? score->size(0) : halves ? 2 * length - 1 : length;
  Tensor out = torch::stable::new_empty(tokens, {rows, n_out, channels});
  Tensor kept = torch::stable::new_empty(tokens, {keep ? rows : 0, 2, length, channels});
  if (is_double(tokens))
    run_cross_scan<double>(given, data<double>(out), keep ? data<double>(kept) : nullptr);
  else
    run_cross_scan<float>(given, data<float>(out), keep ? data<float>(kept) : nullptr);
  return {out, kept};
}

std::vector<Tensor> zeros_like(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> zeros;
  for (const Tensor& tensor : tensors) zeros.push_back(zeros_like(tensor));
  return zeros;
}

// Gradients of the tokens, of ahead and behind, of the norm's weight and bias, of the attention and of the score
// where there are any.
std::vector<Tensor> cross_scan_backward(Tensor grad_out, Tensor kept, Tensor tokens, std::vector<Tensor> ahead,
                                        std::vector<Tensor> behind, Tensor ahead_order, Tensor behind_order,
                                        Tensor index_weight, Tensor norm_weight, Tensor norm_bias,
                                        std::optional<Tensor> attention, std::optional<Tensor> score, int64_t centre,
                                        bool by_feature, bool halves, double eps) {
  const Given given{tokens,    ahead,     behind, ahead_order, behind_order, index_weight, norm_weight,
                    norm_bias, attention, score,  centre,      by_feature,   halves,       eps};
  const std::vector<Tensor> to_ahead = zeros_like(ahead), to_behind = zeros_like(behind);
  std::vector<Tensor> all{zeros_like(tokens)};
  all.insert(all.end(), to_ahead.begin(), to_ahead.end());
  all.insert(all.end(), to_behind.begin(), to_behind.end());
  all.push_back(zeros_like(norm_weight));
  all.push_back(zeros_like(norm_bias));
  if (attention) all.push_back(zeros_like(*attention));
  if (score) all.push_back(zeros_like(*score));
  const size_t norm = 1 + ahead.size() + behind.size();
  const auto run = [&](auto* grad, auto* grad_tokens) {
    using T = std::remove_pointer_t<decltype(grad_tokens)>;
    run_cross_scan_backward<T>(given, grad, data<T>(kept), grad_tokens, to_ahead, to_behind, data<T>(all[norm]),
                               data<T>(all[norm + 1]), attention ? data<T>(all[norm + 2]) : nullptr,
                               score ? data<T>(all.back()) : nullptr);
  };
  if (is_double(tokens))
    run(data<double>(grad_out), data<double>(all[0]));
  else
    run(data<float>(grad_out), data<float>(all[0]));
  return all;
}

}  // namespace

#define MIM_GIVEN                                                                                                 \
  "Tensor tokens, Tensor[] ahead, Tensor[] behind, Tensor ahead_order, Tensor behind_order, Tensor index_weight, " \
  "Tensor norm_weight, Tensor norm_bias, Tensor? attention, Tensor? score, int centre, bool by_feature, bool halves, " \
  "float eps"

STABLE_TORCH_LIBRARY(mim_cpu, m) {
  m.def("forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, bool softplus) -> Tensor");
  m.def(
      "backward(Tensor grad_y, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, "
      "bool softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("cross_scan(" MIM_GIVEN ", bool keep) -> (Tensor, Tensor)");
  m.def("cross_scan_backward(Tensor grad_out, Tensor kept, " MIM_GIVEN ") -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(mim_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
  m.impl("cross_scan", TORCH_BOX(&cross_scan));
  m.impl("cross_scan_backward", TORCH_BOX(&cross_scan_backward));
}
