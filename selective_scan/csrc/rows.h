// The plain scan: one row of the batch at a time, its channels over the lanes of vector registers.
#pragma once

#include "blocks.h"

namespace mim {

template <class T>
struct Inputs : Geometry<T> {
  int64_t batch;
  const T *u, *delta, *A, *B, *C, *D, *bias;  // D and bias may be null
  bool softplus;
};

// Memory of one thread: B and C of one row, padded, and the place of its block of channels.
template <class T>
struct Place {
  const Inputs<T>& in;
  int64_t row = 0, first = 0, width = 0;  // of the batch; the block's first channel and number of channels
  std::vector<T> B, C;
  Vector<T> bias{};

  explicit Place(const Inputs<T>& in) : in(in), B(in.padded_length() * in.padded_states(), T(0)), C(B) {}

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

  void take_block(int64_t block, Block<T>& s) {
    first = in.first(block);
    width = in.width(block);
    if (in.bias) bias = load(in.bias + first, width);
    if (in.D) s.D = load(in.D + first, width);
    for (int64_t t = 0; t < in.length; ++t)
      s.take_step(t, load(in.u + at(t), width), in.softplus ? mim::softplus(raw(t)) : raw(t));
  }
};

template <class T>
struct Gradients {
  T *u, *delta, *B, *C;
};

// Memory of one group of rows in the backward pass, and the sums over the rows so far.
template <class T>
struct Group : Place<T> {
  std::vector<T> grad_B, grad_C;
  BlockBackward<T> s;
  Vectors<T> A, D_sum, bias_sum;

  explicit Group(const Inputs<T>& in)
      : Place<T>(in),
        grad_B(this->B.size()),
        grad_C(this->B.size()),
        s(in, in.padded_states(), this->B.data(), this->C.data(), grad_B.data(), grad_C.data()),
        A(in.blocks() * in.padded_states()),
        D_sum(in.blocks()),
        bias_sum(in.blocks()) {}

  void back_through_block(int64_t block, const Vector<T>* A_block, const T* grad_y, const Gradients<T>& out) {
    const auto& in = this->in;
    this->take_block(block, s);
    for (int64_t t = 0; t < in.length; ++t) s.take_gradient(t, load(grad_y + this->at(t), this->width));
    backward_block(s, A_block, A.at(block * s.states));
    for (int64_t t = 0; t < in.length; ++t) {
      Vector<T> grad_delta = s.to_step[t] * T(LN_2) + s.to_input[t] * s.u[t];
      if (in.softplus) grad_delta *= mim::softplus_slope(this->raw(t));
      store(out.u + this->at(t), s.to_input[t] * s.step[t] + s.D * s.grad_y[t], this->width);
      store(out.delta + this->at(t), grad_delta, this->width);
      D_sum[block] += s.grad_y[t] * s.u[t];
      bias_sum[block] += grad_delta;
    }
  }

  void back_through_row(int64_t row, Vectors<T>& A_packed, const T* grad_y, const Gradients<T>& out) {
    const auto& in = this->in;
    this->take_row(row);
    std::fill(grad_B.begin(), grad_B.end(), T(0));
    std::fill(grad_C.begin(), grad_C.end(), T(0));
    for (int64_t block = 0; block < in.blocks(); ++block)
      back_through_block(block, A_packed.at(block * s.states), grad_y, out);
    for (int64_t t = 0; t < in.length; ++t) {
      const int64_t from = t * in.padded_states(), to = (row * in.length + t) * in.states;
      std::copy_n(grad_B.begin() + from, in.states, out.B + to);
      std::copy_n(grad_C.begin() + from, in.states, out.C + to);
    }
  }
};

}  // namespace mim
