// One direction of a T-Mamba for one sequence, forward and backward: tokens gathered in the scan's order, causal
// convolution and SiLU, the projections to delta, B and C, and the scan.
#pragma once

#include "blocks.h"
#include "product.h"

namespace mim {

constexpr int64_t TAPS = 3;  // tokens that the convolution sees, the last of them the token itself

// Sizes that both directions share. What x_proj makes of a token lies in `n_projected` numbers: B, C and the low rank
// of delta, B and C up to a multiple of STATES each, delta from `delta_at` on.
template <class T>
struct Sizes : Geometry<T> {
  int64_t batch, n_tokens, orders, rank;

  int64_t delta_at() const { return round_up(2 * this->padded_states(), LANES<T>); }
  int64_t n_projected() const { return delta_at() + round_up(rank, LANES<T>); }
  int64_t columns() const { return n_projected() / LANES<T>; }

  // The place in what is projected of a row of x_weight, which makes delta's rank, B and C in this order.
  int64_t column(int64_t row) const {
    if (row < rank) return delta_at() + row;
    const int64_t n = row - rank;
    return n < this->states ? n : this->padded_states() + n - this->states;
  }
};

// The parameters of a direction, or their gradients.
template <class T>
struct Parameters {
  T *conv_weight, *conv_bias, *x_weight, *dt_weight, *dt_bias;  // (TAPS, channels), (channels), (rank + 2 states,
  T *A, *D;  // channels), (channels, rank), (channels); (channels, states), (channels)
};

// The parameters, or sums of their gradients, in vectors over the channels.
template <class T>
struct Packed {
  // (TAPS + 1, block), (n_projected, block), (rank, block), (block), (block, padded state) and (block)
  Vectors<T> taps, x_weight, dt_weight, dt_bias, A, D;

  explicit Packed(const Sizes<T>& n)
      : taps((TAPS + 1) * n.blocks()),
        x_weight(n.n_projected() * n.blocks()),
        dt_weight(n.rank * n.blocks()),
        dt_bias(n.blocks()),
        A(n.blocks() * n.padded_states()),
        D(n.blocks()) {}

  // For every number of the parameters, given flat: its place here.
  template <class Parts, class Visit>
  static void visit(const Sizes<T>& n, Parts& p, const Parameters<T>& flat, Visit each) {
    const int64_t P = n.padded_channels();
    for (int64_t c = 0; c < n.channels; ++c) {
      for (int64_t k = 0; k < TAPS; ++k) each(flat.conv_weight[k * n.channels + c], numbers(p.taps)[k * P + c]);
      each(flat.conv_bias[c], numbers(p.taps)[TAPS * P + c]);
      for (int64_t i = 0; i < n.rank + 2 * n.states; ++i)
        each(flat.x_weight[i * n.channels + c], numbers(p.x_weight)[n.column(i) * P + c]);
      for (int64_t r = 0; r < n.rank; ++r) each(flat.dt_weight[c * n.rank + r], numbers(p.dt_weight)[r * P + c]);
      each(flat.dt_bias[c], numbers(p.dt_bias)[c]);
      each(flat.D[c], numbers(p.D)[c]);
      for (int64_t s = 0; s < n.states; ++s) each(flat.A[c * n.states + s], numbers(p.A)[n.state_at(c, s)]);
    }
  }
  void add(Packed& other) {
    for (auto part : {&Packed::taps, &Packed::x_weight, &Packed::dt_weight, &Packed::dt_bias, &Packed::A, &Packed::D})
      (this->*part).add(other.*part);
  }
};

// The parameters as the threads read them, some of them transposed as well.
template <class T>
struct Weights : Packed<T> {
  Vectors<T> to_projected, to_rank;  // (padded channels, columns) and (padded channels, vectors of the rank)

  Weights(const Sizes<T>& n, const Parameters<T>& flat)
      : Packed<T>(n),
        to_projected(n.padded_channels() * n.columns()),
        to_rank(n.padded_channels() * (n.n_projected() - n.delta_at()) / LANES<T>) {
    Packed<T>::visit(n, *this, flat, [](T& number, T& place) { place = number; });
    this->A = pack_A(n, flat.A);
    T *x = numbers(to_projected), *r = numbers(to_rank);
    for (int64_t c = 0; c < n.channels; ++c) {
      for (int64_t i = 0; i < n.rank + 2 * n.states; ++i)
        x[c * n.n_projected() + n.column(i)] = flat.x_weight[i * n.channels + c];
      for (int64_t i = 0; i < n.rank; ++i) r[c * (n.n_projected() - n.delta_at()) + i] = flat.dt_weight[c * n.rank + i];
    }
  }
};

// Memory of one thread for one direction. Sequences lie here as (step, block).
template <class T>
struct Direction {
  const Sizes<T>& n;
  Weights<T>& w;
  const T* tokens = nullptr;  // of the sample
  const int64_t* order = nullptr;
  Vectors<T> u, projected;

  Direction(const Sizes<T>& n, Weights<T>& w)
      : n(n), w(w), u(n.length * n.blocks()), projected(n.padded_length() * n.columns()) {}

  const T* projected_at(int64_t t) { return numbers(projected) + t * n.n_projected(); }
  Scalars<T> scalars(Vectors<T>& v, int64_t row, int64_t column) { return {numbers(v), row, column}; }
  Vector<T> token(int64_t t, int64_t block) const {
    return load(tokens + order[t] * n.channels + n.first(block), n.width(block));
  }

  // Up to the projections.
  void take_sequence(const T* new_tokens, const int64_t* new_order) {
    tokens = new_tokens;
    order = new_order;
    for (int64_t block = 0; block < n.blocks(); ++block) {
      Vector<T> taps[TAPS + 1], two_before{}, before{};
      for (int64_t k = 0; k <= TAPS; ++k) taps[k] = w.taps[k * n.blocks() + block];
      for (int64_t t = 0; t < n.length; ++t) {
        const Vector<T> x = token(t, block), z = taps[3] + taps[0] * two_before + taps[1] * before + taps[2] * x;
        u[t * n.blocks() + block] = z * Elementary<Vector<T>>::reciprocal(T(1) + Elementary<Vector<T>>::exp(-z));
        two_before = before;
        before = x;
      }
    }
    projected.clear();
    add_product<T>(n.length, n.channels, n.columns(), scalars(u, n.padded_channels(), 1),
                   {w.to_projected.at(0), n.columns()}, {projected.at(0), n.columns()});
  }

  Vector<T> raw_step(int64_t t, int64_t block) {
    Vector<T> raw = w.dt_bias[block];
    const T* low = projected_at(t) + n.delta_at();
    for (int64_t r = 0; r < n.rank; ++r) raw += w.dt_weight[r * n.blocks() + block] * low[r];
    return raw;
  }
};

template <class T>
struct DirectionForward : Direction<T> {
  Block<T> s;
  Vectors<T> y_block;

  DirectionForward(const Sizes<T>& n, Weights<T>& w)
      : Direction<T>(n, w),
        s(n, n.n_projected(), this->projected_at(0), this->projected_at(0) + n.padded_states()),
        y_block(n.length) {}

  // y as (step, block).
  void scan(const T* tokens, const int64_t* order, Vectors<T>& y) {
    const auto& n = this->n;
    this->take_sequence(tokens, order);
    for (int64_t block = 0; block < n.blocks(); ++block) {
      s.D = this->w.D[block];
      for (int64_t t = 0; t < n.length; ++t)
        s.take_step(t, this->u[t * n.blocks() + block], mim::softplus(this->raw_step(t, block)));
      forward_block(s, this->w.A.at(block * s.states), y_block.at(0));
      for (int64_t t = 0; t < n.length; ++t) y[t * n.blocks() + block] = y_block[t];
    }
  }
};

template <class T>
struct DirectionBackward : Direction<T> {
  Vectors<T> grad_projected, grad_u, grad_raw, raw, z;  // raw and z of one block
  BlockBackward<T> s;
  Packed<T>* sums = nullptr;  // what is added to

  DirectionBackward(const Sizes<T>& n, Weights<T>& w)
      : Direction<T>(n, w),
        grad_projected(n.padded_length() * n.columns()),
        grad_u(n.length * n.blocks()),
        grad_raw(n.length * n.blocks()),
        raw(n.length),
        z(n.length + 2),
        s(n, n.n_projected(), this->projected_at(0), this->projected_at(0) + n.padded_states(), numbers(grad_projected),
          numbers(grad_projected) + n.padded_states()) {}

  // From the gradient of y, (step, block), to that of the tokens, added up, and of the parameters.
  void backward(const T* tokens, const int64_t* order, Vectors<T>& grad_y, T* grad_tokens) {
    const auto& n = this->n;
    this->take_sequence(tokens, order);
    grad_projected.clear();
    for (int64_t block = 0; block < n.blocks(); ++block) back_through_scan(block, grad_y);
    back_through_projections();
    for (int64_t block = 0; block < n.blocks(); ++block) back_through_convolution(block, grad_tokens);
  }

  void back_through_scan(int64_t block, Vectors<T>& grad_y) {
    const auto& n = this->n;
    s.D = this->w.D[block];
    for (int64_t t = 0; t < n.length; ++t) {
      raw[t] = this->raw_step(t, block);
      s.take_step(t, this->u[t * n.blocks() + block], mim::softplus(raw[t]));
      s.take_gradient(t, grad_y[t * n.blocks() + block]);
    }
    backward_block(s, this->w.A.at(block * s.states), sums->A.at(block * s.states));
    for (int64_t t = 0; t < n.length; ++t) {
      const Vector<T> grad = (s.to_step[t] * T(LN_2) + s.to_input[t] * s.u[t]) * mim::softplus_slope(raw[t]);
      grad_raw[t * n.blocks() + block] = grad;
      grad_u[t * n.blocks() + block] = s.to_input[t] * s.step[t] + s.D * s.grad_y[t];
      sums->dt_bias[block] += grad;
      sums->D[block] += s.grad_y[t] * s.u[t];
    }
  }

  void back_through_projections() {
    const auto& n = this->n;
    const int64_t B = n.blocks(), P = n.padded_channels(), W = n.n_projected();
    const Rows<T> raws{grad_raw.at(0), B}, us{this->u.at(0), B};
    const T *low = this->projected_at(0) + n.delta_at(), *grad = numbers(grad_projected);
    add_product<T>(n.length, n.channels, (W - n.delta_at()) / LANES<T>, this->scalars(grad_raw, P, 1),
                   {this->w.to_rank.at(0), (W - n.delta_at()) / LANES<T>},
                   {grad_projected.at(n.delta_at() / LANES<T>), n.columns()});
    add_product<T>(n.rank, n.length, B, {low, 1, W}, raws, {sums->dt_weight.at(0), B});
    add_product<T>(n.length, W, B, {grad, W, 1}, {this->w.x_weight.at(0), B}, {grad_u.at(0), B});
    add_product<T>(W, n.length, B, {grad, 1, W}, us, {sums->x_weight.at(0), B});
  }

  void back_through_convolution(int64_t block, T* grad_tokens) {
    const auto& n = this->n;
    const int64_t B = n.blocks();
    Vector<T> taps[TAPS + 1], sum[TAPS + 1] = {}, two_before{}, before{};
    for (int64_t k = 0; k <= TAPS; ++k) taps[k] = this->w.taps[k * B + block];
    for (int64_t t = 0; t < n.length; ++t) {
      const Vector<T> x = this->token(t, block);
      const Vector<T> at = taps[3] + taps[0] * two_before + taps[1] * before + taps[2] * x;
      const Vector<T> sigmoid = Elementary<Vector<T>>::reciprocal(T(1) + Elementary<Vector<T>>::exp(-at));
      const Vector<T> grad = z[t] = grad_u[t * B + block] * sigmoid * (T(1) + at * (T(1) - sigmoid));
      sum[0] += grad * two_before;
      sum[1] += grad * before;
      sum[2] += grad * x;
      sum[3] += grad;
      two_before = before;
      before = x;
    }
    for (int64_t k = 0; k <= TAPS; ++k) sums->taps[k * B + block] += sum[k];
    for (int64_t t = 0; t < n.length; ++t) {  // z has two zeros behind the sequence
      T* to = grad_tokens + this->order[t] * n.channels + n.first(block);
      const Vector<T> grad = taps[2] * z[t] + taps[1] * z[t + 1] + taps[0] * z[t + 2];
      store(to, load(to, n.width(block)) + grad, n.width(block));
    }
  }
};

}  // namespace mim
