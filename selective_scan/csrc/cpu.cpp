// The CPU back end as operators of PyTorch: the selective scan, and a T-Mamba's scans with all that is around them.
// Rows of the batch are distributed over the cores.
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
  return {{u.size(2), u.size(1), A.size(1)},
          u.size(0),
          data<T>(u),
          data<T>(delta),
          data<T>(A),
          data<T>(B),
          data<T>(C),
          D ? data<T>(*D) : nullptr,
          bias ? data<T>(*bias) : nullptr,
          softplus};
}

template <class T>
void run_forward(const Inputs<T>& in, T* out) {
  auto A = pack_A(in, in.A);
  torch::stable::parallel_for(0, in.batch, 1, [&](int64_t begin, int64_t end) {
    Place<T> place(in);
    Block<T> s(in, in.padded_states(), place.B.data(), place.C.data());
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
  auto A = pack_A(in, in.A);
  const int64_t groups = std::min(MAX_GROUPS, in.batch);
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
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t state = 0; state < in.states; ++state)
        grad_A[channel * in.states + state] += numbers(*sums_A[group])[in.state_at(channel, state)];
      if (grad_D) grad_D[channel] += numbers(*sums_D[group])[channel];
      if (grad_bias) grad_bias[channel] += numbers(*sums_bias[group])[channel];
    }
  }
}

bool is_double(const Tensor& tensor) { return tensor.scalar_type() == torch::headeronly::ScalarType::Double; }

// All tensors contiguous, on the CPU, of one type, float or double; as the Python side makes them.
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

// Gradients of u, delta, A, B, C, D and the bias; zeros (channels) if D or the bias is absent.
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

// The parameters of one direction, or their gradients; they come as a list in this order.
struct DirectionTensors {
  Tensor conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A, D;

  DirectionTensors(const std::vector<Tensor>& d)
      : conv_weight(d[0]), conv_bias(d[1]), x_weight(d[2]), dt_weight(d[3]), dt_bias(d[4]), A(d[5]), D(d[6]) {}

  std::vector<Tensor> list() const { return {conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A, D}; }

  template <class T>
  Parameters<T> as() const {
    return {data<T>(conv_weight), data<T>(conv_bias), data<T>(x_weight), data<T>(dt_weight),
            data<T>(dt_bias),     data<T>(A),         data<T>(D)};
  }
};

// What of a T-Mamba's scans has a gradient, or the gradients.
struct Leaves {
  Tensor tokens;
  DirectionTensors ahead, behind;
  Tensor norm_weight, norm_bias;
  std::optional<Tensor> attention, score;

  std::vector<Tensor> list() const {
    std::vector<Tensor> all{tokens};
    for (const auto& direction : {ahead.list(), behind.list()})
      all.insert(all.end(), direction.begin(), direction.end());
    all.insert(all.end(), {norm_weight, norm_bias});
    if (attention) all.push_back(*attention);
    if (score) all.push_back(*score);
    return all;
  }
};

DirectionTensors zeros_like(const DirectionTensors& direction) {
  std::vector<Tensor> zeros;
  for (const Tensor& tensor : direction.list()) zeros.push_back(zeros_like(tensor));
  return zeros;
}

std::optional<Tensor> zeros_like(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional(zeros_like(*tensor)) : std::nullopt;
}

Leaves zeros_like(const Leaves& x) {
  return {zeros_like(x.tokens),    zeros_like(x.ahead),     zeros_like(x.behind), zeros_like(x.norm_weight),
          zeros_like(x.norm_bias), zeros_like(x.attention), zeros_like(x.score)};
}

// What the two operators are given alike, in the order of their schema.
struct Given : Leaves {
  Tensor ahead_order, behind_order, index_weight;
  int64_t centre;
  bool by_feature, halves;
  double eps;

  template <class T>
  CrossScan<T> as() const {
    const int64_t channels = tokens.size(2), length = ahead_order.size(1);
    return {{{channels, length, ahead.A.size(1)},
             tokens.size(0),
             tokens.size(1),
             ahead_order.size(0),
             ahead.dt_weight.size(1)},
            {{channels, length},
             data<T>(index_weight),
             data<T>(norm_weight),
             data<T>(norm_bias),
             attention ? data<T>(*attention) : nullptr,
             centre,
             by_feature,
             halves,
             T(eps)},
            {{channels, merged_length(length, halves)}, score ? score->size(0) : 0},
            data<T>(tokens),
            score ? data<T>(*score) : nullptr,
            data<int64_t>(ahead_order),
            data<int64_t>(behind_order)};
  }
};

template <class T>
void run_cross_scan(const Given& given, T* out, T* kept) {
  const auto c = given.as<T>();
  AllWeights<T> weights(c, given.ahead.as<T>(), given.behind.as<T>());
  torch::stable::parallel_for(0, c.n.batch, 1,
                              [&](int64_t begin, int64_t end) { scan_samples(c, weights, begin, end, out, kept); });
}

template <class T>
void run_cross_scan_backward(const Given& given, const T* grad_out, const T* kept, const Leaves& grads) {
  const auto c = given.as<T>();
  AllWeights<T> weights(c, given.ahead.as<T>(), given.behind.as<T>());
  const int64_t groups = std::min(MAX_GROUPS, c.n.batch);
  std::vector<std::unique_ptr<Sums<T>>> sums(groups);
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    SamplesBackward<T> samples(c, weights);
    for (int64_t group = begin; group < end; ++group) {
      sums[group] = std::make_unique<Sums<T>>(c);
      samples.run(group * c.n.batch / groups, (group + 1) * c.n.batch / groups, grad_out, kept, data<T>(grads.tokens),
                  *sums[group]);
    }
  });
  if (groups == 0) return;
  Sums<T>& sum = *sums[0];
  for (int64_t group = 1; group < groups; ++group) sum.add(*sums[group]);
  const auto give = [](T& number, T& place) { number = place; };
  Packed<T>::visit(c.n, sum.ahead, grads.ahead.as<T>(), give);
  Packed<T>::visit(c.n, sum.behind, grads.behind.as<T>(), give);
  std::copy_n(numbers(sum.merge.gain), c.n.channels, data<T>(grads.norm_weight));
  std::copy_n(numbers(sum.merge.offset), c.n.channels, data<T>(grads.norm_bias));
  if (grads.attention)
    for (int64_t i = 0; i < 3; ++i) data<T>(*grads.attention)[i] = sum_of<T>(sum.merge.attention[i]);
  if (grads.score) write(c.n, c.l.averages, sum.score, data<T>(*grads.score));
}

// The merged tokens, and if `keep`, what the backward pass needs, else an empty tensor.
std::tuple<Tensor, Tensor> cross_scan(const Given& given, bool keep) {
  const int64_t rows = given.tokens.size(0) * given.ahead_order.size(0), channels = given.tokens.size(2);
  const int64_t length = given.ahead_order.size(1);
  const int64_t n_out = given.score ? given.score->size(0) : merged_length(length, given.halves);
  Tensor out = torch::stable::new_empty(given.tokens, {rows, n_out, channels});
  Tensor kept = torch::stable::new_empty(given.tokens, {keep ? rows : 0, 2, length, channels});
  if (is_double(given.tokens))
    run_cross_scan<double>(given, data<double>(out), keep ? data<double>(kept) : nullptr);
  else
    run_cross_scan<float>(given, data<float>(out), keep ? data<float>(kept) : nullptr);
  return {out, kept};
}

// The gradients of what has one, absent ones left out.
std::vector<Tensor> cross_scan_backward(const Tensor& grad_out, const Tensor& kept, const Given& given) {
  const Leaves grads = zeros_like(static_cast<const Leaves&>(given));
  if (is_double(given.tokens))
    run_cross_scan_backward<double>(given, data<double>(grad_out), data<double>(kept), grads);
  else
    run_cross_scan_backward<float>(given, data<float>(grad_out), data<float>(kept), grads);
  return grads.list();
}

// The two operators as PyTorch calls them, with the fields of `Given` one by one.
template <class... Fields>
struct Unpacked {
  static std::tuple<Tensor, Tensor> forward(Fields... fields, bool keep) { return cross_scan(Given{fields...}, keep); }
  static std::vector<Tensor> backward(Tensor grad_out, Tensor kept, Fields... fields) {
    return cross_scan_backward(grad_out, kept, Given{fields...});
  }
};
using CrossScanOperators =
    Unpacked<Tensor, std::vector<Tensor>, std::vector<Tensor>, Tensor, Tensor, std::optional<Tensor>,
             std::optional<Tensor>, Tensor, Tensor, Tensor, int64_t, bool, bool, double>;

}  // namespace

#define MIM_GIVEN                                                                                              \
  "Tensor tokens, Tensor[] ahead, Tensor[] behind, Tensor norm_weight, Tensor norm_bias, Tensor? attention, "  \
  "Tensor? score, Tensor ahead_order, Tensor behind_order, Tensor index_weight, int centre, bool by_feature, " \
  "bool halves, float eps"

STABLE_TORCH_LIBRARY(mim_cpu, m) {
  m.def(
      "forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, bool softplus) -> "
      "Tensor");
  m.def(
      "backward(Tensor grad_y, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, "
      "bool softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("cross_scan(" MIM_GIVEN ", bool keep) -> (Tensor, Tensor)");
  m.def("cross_scan_backward(Tensor grad_out, Tensor kept, " MIM_GIVEN ") -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(mim_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
  m.impl("cross_scan", TORCH_BOX(&CrossScanOperators::forward));
  m.impl("cross_scan_backward", TORCH_BOX(&CrossScanOperators::backward));
}
