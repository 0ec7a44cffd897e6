// The scan of one block of channels, one in each lane of a vector register, along one sequence; a few states at a time,
// so that they stay in registers along the whole sequence.
#pragma once

#include "geometry.h"

namespace mim {

// A in units of log 2 as (block, state, lane); what lies past the last channel or state is 0.
template <class T>
Vectors<T> pack_A(const Geometry<T>& n, const T* A) {
  Vectors<T> packed(n.blocks() * n.padded_states());
  for (int64_t channel = 0; channel < n.channels; ++channel)
    for (int64_t state = 0; state < n.states; ++state)
      numbers(packed)[n.state_at(channel, state)] = A[channel * n.states + state] * T(LOG2_E);
  return packed;
}

// A block along the sequence, and B and C, which all blocks share: B of step t begins at B + t * stride, and behind the
// last state and the last step there are zeros up to the next multiple of STATES and STEPS.
template <class T>
struct Block {
  int64_t length, padded_length, states, stride;  // states: with those that fill up
  const T *B, *C;
  Vectors<T> u, step, input;
  Vector<T> D{};

  Block(const Geometry<T>& n, int64_t stride, const T* B, const T* C)
      : length(n.length),
        padded_length(n.padded_length()),
        states(n.padded_states()),
        stride(stride),
        B(B),
        C(C),
        u(padded_length),
        step(padded_length),
        input(padded_length) {}

  void take_step(int64_t t, Vector<T> token, Vector<T> size) {
    u[t] = token;
    step[t] = size;
    input[t] = size * token;
  }
};

// Whether all exponents are in the range of exp2_in_range.
template <class T>
bool in_range(Block<T>& s, const Vector<T>* A) {
  Vector<T> longest{}, steepest{};
  for (int64_t t = 0; t < s.length; ++t) longest = larger<T>(longest, magnitude<T>(s.step[t]));
  for (int64_t n = 0; n < s.states; ++n) steepest = larger<T>(steepest, magnitude<T>(A[n]));
  const Vector<T> most = longest * steepest;
  bool all = true;
  for (int64_t k = 0; k < LANES<T>; ++k) all &= most[k] < -Elementary<Vector<T>>::LEAST;
  return all;
}

// The decays of a few states in one step.
template <bool in_range, class T>
MIM_INLINE void decay_all(Vector<T> step, const Vector<T>* A, Vector<T>* a) {
#pragma GCC unroll 8
  for (int64_t j = 0; j < STATES<T>; ++j)
    a[j] = in_range ? Elementary<Vector<T>>::exp2_in_range(step * A[j]) : decay(step, A[j]);
}

template <bool in_range, class T>
void forward_states(Block<T>& s, const Vector<T>* A, Vector<T>* y, int64_t n) {
  Vector<T> h[STATES<T>] = {}, An[STATES<T>], a[STATES<T>];
#pragma GCC unroll 8
  for (int64_t j = 0; j < STATES<T>; ++j) An[j] = A[n + j];
  for (int64_t t = 0; t < s.length; ++t) {
    const T *B = s.B + t * s.stride + n, *C = s.C + t * s.stride + n;
    const Vector<T> input = s.input[t];
    Vector<T> sum = y[t];
    decay_all<in_range, T>(s.step[t], An, a);
#pragma GCC unroll 8
    for (int64_t j = 0; j < STATES<T>; ++j) {
      h[j] = next_state(h[j], a[j], input, B[j]);
      sum += h[j] * C[j];
    }
    y[t] = sum;
  }
}

template <class T>
void forward_block(Block<T>& s, const Vector<T>* A, Vector<T>* y) {
  for (int64_t t = 0; t < s.length; ++t) y[t] = s.D * s.u[t];
  const auto run = in_range(s, A) ? forward_states<true, T> : forward_states<false, T>;
  for (int64_t n = 0; n < s.states; n += STATES<T>) run(s, A, y, n);
}

// What the backward pass needs besides: gradients along the sequence, and the states and decays of a few states (the
// states have one step more, the start).
template <class T>
struct BlockBackward : Block<T> {
  T *grad_B, *grad_C;  // as B and C
  Vectors<T> grad_y, to_input, to_step, h, a;

  BlockBackward(const Geometry<T>& n, int64_t stride, const T* B, const T* C, T* grad_B, T* grad_C)
      : Block<T>(n, stride, B, C),
        grad_B(grad_B),
        grad_C(grad_C),
        grad_y(this->padded_length),
        to_input(this->padded_length),
        to_step(this->padded_length),
        h((this->padded_length + 1) * STATES<T>),
        a(this->padded_length * STATES<T>) {}

  void take_gradient(int64_t t, Vector<T> gradient) {
    grad_y[t] = gradient;
    to_input[t] = to_step[t] = Vector<T>{};
  }
};

// States n to n + STATES of one block: forward once more, all kept, then back.
template <bool in_range, class T>
void backward_states(BlockBackward<T>& s, const Vector<T>* A, Vector<T>* grad_A, int64_t n) {
  constexpr int64_t G = STATES<T>;
  Vector<T> An[G], h[G] = {}, later[G] = {}, sum_A[G] = {};
#pragma GCC unroll 8
  for (int64_t j = 0; j < G; ++j) An[j] = A[n + j];
  for (int64_t t = 0; t < s.length; ++t) {
    const T* B = s.B + t * s.stride + n;
    const Vector<T> step = s.step[t], input = s.input[t];
    Vector<T>*a = s.a.at(t * G), *after = s.h.at((t + 1) * G);
    decay_all<in_range, T>(step, An, a);
#pragma GCC unroll 8
    for (int64_t j = 0; j < G; ++j) after[j] = h[j] = next_state(h[j], a[j], input, B[j]);
  }
  for (int64_t last = s.padded_length - 1; last >= 0; last -= STEPS<T>) {
    Vector<T> parts[LANES<T>];  // of the gradients of B and C, for each of the steps
#pragma GCC unroll 2
    for (int64_t i = 0; i < STEPS<T>; ++i) {
      const int64_t t = last - i;
      const T *B = s.B + t * s.stride + n, *C = s.C + t * s.stride + n;
      const Vector<T>*a = s.a.at(t * G), *before = s.h.at(t * G), *after = before + G;
      const Vector<T> step = s.step[t], input = s.input[t], grad_y = s.grad_y[t];
      Vector<T> to_input = s.to_input[t], to_step = s.to_step[t];
#pragma GCC unroll 8
      for (int64_t j = 0; j < G; ++j) {
        const auto g = step_gradient(later[j], grad_y, a[j], before[j], after[j], input, B[j], C[j]);
        later[j] = g.to_previous;
        parts[2 * i * G + j] = g.to_B;
        parts[(2 * i + 1) * G + j] = g.to_C;
        to_input += g.to_input;
        to_step += g.to_exponent * An[j];
        sum_A[j] += g.to_exponent * step;
      }
      s.to_input[t] = to_input;
      s.to_step[t] = to_step;
    }
    const Vector<T> sums = sum_lanes<T>(parts);
#pragma GCC unroll 2
    for (int64_t i = 0; i < STEPS<T>; ++i) {
      T *grad_B = s.grad_B + (last - i) * s.stride + n, *grad_C = s.grad_C + (last - i) * s.stride + n;
#pragma GCC unroll 8
      for (int64_t j = 0; j < G; ++j) {
        grad_B[j] += sums[2 * i * G + j];
        grad_C[j] += sums[(2 * i + 1) * G + j];
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t j = 0; j < G; ++j) grad_A[n + j] += sum_A[j];
}

template <class T>
void backward_block(BlockBackward<T>& s, const Vector<T>* A, Vector<T>* grad_A) {
  const auto run = in_range<T>(s, A) ? backward_states<true, T> : backward_states<false, T>;
  for (int64_t n = 0; n < s.states; n += STATES<T>) run(s, A, grad_A, n);
}

}  // namespace mim
