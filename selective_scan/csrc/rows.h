// One row of the batch at a time: its channels over the lanes of vector registers, a few states at a time so that they
// stay in registers along the whole sequence.
#pragma once

#include "vectors.h"

namespace mim {

// States that go along the sequence together, and steps whose sums over channels are taken together: their shares in
// the gradients of B and C fill as many vectors as there are lanes.
template <class T>
constexpr int64_t STATES = LANES<T> < 8 ? LANES<T> / 2 : 4;
template <class T>
constexpr int64_t STEPS = LANES<T> / (2 * STATES<T>);

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class T>
struct Inputs {
  const T *u, *delta, *A, *B, *C, *D, *bias;  // D and bias may be null
  bool softplus;
  int64_t batch, length, channels, states;

  int64_t blocks() const { return round_up(channels, LANES<T>) / LANES<T>; }
  int64_t padded_states() const { return round_up(states, STATES<T>); }
  int64_t padded_length() const { return round_up(length, STEPS<T>); }
};

// A in units of log 2 as (block, state, lane); what lies past the last channel or state is 0.
template <class T>
Vectors<T> pack_A(const Inputs<T>& in) {
  Vectors<T> packed(in.blocks() * in.padded_states());
  for (int64_t channel = 0; channel < in.channels; ++channel)
    for (int64_t n = 0; n < in.states; ++n)
      packed[channel / LANES<T> * in.padded_states() + n][channel % LANES<T>] =
          in.A[channel * in.states + n] * T(LOG2_E);
  return packed;
}

// Memory of one thread in the forward pass: B and C of one row, padded, and one block of channels along the sequence.
template <class T>
struct Sequence {
  const Inputs<T>& in;
  int64_t row = 0, first = 0, width = 0;  // of the batch; the block's first channel and number of channels
  std::vector<T> B, C;
  Vectors<T> u, step, input;
  Vector<T> bias{}, D{};

  explicit Sequence(const Inputs<T>& in)
      : in(in),
        B(in.padded_length() * in.padded_states(), T(0)),
        C(B),
        u(in.padded_length()),
        step(in.padded_length()),
        input(in.padded_length()) {}

  int64_t at(int64_t t) const { return (row * in.length + t) * in.channels + first; }
  Vector<T> raw(int64_t t) const { return load(in.delta + at(t), width) + bias; }

  void take_row(int64_t new_row) {
    row = new_row;
    for (int64_t t = 0; t < in.length; ++t) {
      const int64_t from = (row * in.length + t) * in.states, to = t * in.padded_states();
      std::copy_n(in.B + from, in.states, B.begin() + to);
      std::copy_n(in.C + from, in.states, C.begin() + to);
    }
  }

  void start_block(int64_t block) {
    first = block * LANES<T>;
    width = std::min(LANES<T>, in.channels - first);
    if (in.bias) bias = load(in.bias + first, width);
    if (in.D) D = load(in.D + first, width);
  }

  void take_step(int64_t t, Vector<T> size) {
    u[t] = load(in.u + at(t), width);
    step[t] = size;
    input[t] = size * u[t];
  }

  void take_block(int64_t block) {
    start_block(block);
    for (int64_t t = 0; t < in.length; ++t) take_step(t, in.softplus ? mim::softplus(raw(t)) : raw(t));
  }
};

template <class T>
void forward_block(Sequence<T>& s, Vector<T>* A, Vector<T>* y) {
  const int64_t N = s.in.padded_states();
  for (int64_t t = 0; t < s.in.length; ++t) y[t] = s.D * s.u[t];
  for (int64_t n = 0; n < N; n += STATES<T>) {
    Vector<T> h[STATES<T>] = {}, An[STATES<T>];
#pragma GCC unroll 8
    for (int64_t j = 0; j < STATES<T>; ++j) An[j] = A[n + j];
    for (int64_t t = 0; t < s.in.length; ++t) {
      const T *B = s.B.data() + t * N + n, *C = s.C.data() + t * N + n;
      const Vector<T> step = s.step[t], input = s.input[t];
      Vector<T> sum = y[t];
#pragma GCC unroll 8
      for (int64_t j = 0; j < STATES<T>; ++j) {
        h[j] = next_state(h[j], decay(step, An[j]), input, B[j]);
        sum += h[j] * C[j];
      }
      y[t] = sum;
    }
  }
}

template <class T>
struct Gradients {
  T *u, *delta, *B, *C;
};

// Memory of one group of rows in the backward pass: gradients along the sequence, the states and decays of a few states
// (the states have one step more, the start), and the sums over the rows so far.
template <class T>
struct Group : Sequence<T> {
  std::vector<T> grad_B, grad_C;
  Vectors<T> grad_y, to_input, to_step, h, a, A, D_sum, bias_sum;

  explicit Group(const Inputs<T>& in)
      : Sequence<T>(in),
        grad_B(this->B.size()),
        grad_C(this->B.size()),
        grad_y(in.padded_length()),
        to_input(in.padded_length()),
        to_step(in.padded_length()),
        h((in.padded_length() + 1) * STATES<T>),
        a(in.padded_length() * STATES<T>),
        A(in.blocks() * in.padded_states()),
        D_sum(in.blocks()),
        bias_sum(in.blocks()) {}
};

// The states n to n + STATES of one block: forward once more, all kept, then back.
template <class T>
void backward_states(Group<T>& s, const Vector<T>* A, Vector<T>* grad_A, int64_t n) {
  constexpr int64_t G = STATES<T>;
  const int64_t N = s.in.padded_states();
  Vector<T> An[G], h[G] = {}, later[G] = {}, sum_A[G] = {};
#pragma GCC unroll 8
  for (int64_t j = 0; j < G; ++j) An[j] = A[j];
  for (int64_t t = 0; t < s.in.length; ++t) {
    const T* B = s.B.data() + t * N + n;
    const Vector<T> step = s.step[t], input = s.input[t];
    Vector<T>*a = s.a.at(t * G), *after = s.h.at((t + 1) * G);
#pragma GCC unroll 8
    for (int64_t j = 0; j < G; ++j) {
      a[j] = decay(step, An[j]);
      after[j] = h[j] = next_state(h[j], a[j], input, B[j]);
    }
  }
  for (int64_t last = s.in.padded_length() - 1; last >= 0; last -= STEPS<T>) {
    Vector<T> shares[LANES<T>];  // of B and C, for each of the steps
#pragma GCC unroll 2
    for (int64_t i = 0; i < STEPS<T>; ++i) {
      const int64_t t = last - i;
      const T *B = s.B.data() + t * N + n, *C = s.C.data() + t * N + n;
      const Vector<T>*a = s.a.at(t * G), *before = s.h.at(t * G), *after = before + G;
      const Vector<T> step = s.step[t], input = s.input[t], grad_y = s.grad_y[t];
      Vector<T> to_input = s.to_input[t], to_step = s.to_step[t];
#pragma GCC unroll 8
      for (int64_t j = 0; j < G; ++j) {
        const auto g = step_gradient(later[j], grad_y, a[j], before[j], after[j], input, B[j], C[j]);
        later[j] = g.to_previous;
        shares[2 * i * G + j] = g.to_B;
        shares[(2 * i + 1) * G + j] = g.to_C;
        to_input += g.to_input;
        to_step += g.to_exponent * An[j];
        sum_A[j] += g.to_exponent * step;
      }
      s.to_input[t] = to_input;
      s.to_step[t] = to_step;
    }
    const Vector<T> sums = sum_lanes<T>(shares);
#pragma GCC unroll 2
    for (int64_t i = 0; i < STEPS<T>; ++i) {
      T *grad_B = s.grad_B.data() + (last - i) * N + n, *grad_C = s.grad_C.data() + (last - i) * N + n;
#pragma GCC unroll 8
      for (int64_t j = 0; j < G; ++j) {
        grad_B[j] += sums[2 * i * G + j];
        grad_C[j] += sums[(2 * i + 1) * G + j];
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t j = 0; j < G; ++j) grad_A[j] += sum_A[j];
}

template <class T>
void backward_block(Group<T>& s, int64_t block, const Vector<T>* A, const T* grad_y, const Gradients<T>& out) {
  const int64_t N = s.in.padded_states();
  s.take_block(block);
  for (int64_t t = 0; t < s.in.length; ++t) {
    s.grad_y[t] = load(grad_y + s.at(t), s.width);
    s.to_input[t] = s.to_step[t] = Vector<T>{};
  }
  for (int64_t n = 0; n < N; n += STATES<T>) backward_states(s, A + n, s.A.at(block * N + n), n);
  for (int64_t t = 0; t < s.in.length; ++t) {
    Vector<T> grad_delta = s.to_step[t] * T(LN_2) + s.to_input[t] * s.u[t];
    if (s.in.softplus) grad_delta *= mim::softplus_slope(s.raw(t));
    store(out.u + s.at(t), s.to_input[t] * s.step[t] + s.D * s.grad_y[t], s.width);
    store(out.delta + s.at(t), grad_delta, s.width);
    s.D_sum[block] += s.grad_y[t] * s.u[t];
    s.bias_sum[block] += grad_delta;
  }
}

template <class T>
void backward_row(Group<T>& s, int64_t row, Vectors<T>& A, const T* grad_y, const Gradients<T>& out) {
  const auto& in = s.in;
  s.take_row(row);
  std::fill(s.grad_B.begin(), s.grad_B.end(), T(0));
  std::fill(s.grad_C.begin(), s.grad_C.end(), T(0));
  for (int64_t block = 0; block < in.blocks(); ++block)
    backward_block(s, block, A.at(block * in.padded_states()), grad_y, out);
  for (int64_t t = 0; t < in.length; ++t) {
    const int64_t from = t * in.padded_states(), to = (row * in.length + t) * in.states;
    std::copy_n(s.grad_B.begin() + from, in.states, out.B + to);
    std::copy_n(s.grad_C.begin() + from, in.states, out.C + to);
  }
}

}  // namespace mim
