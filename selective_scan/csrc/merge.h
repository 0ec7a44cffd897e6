// What a T-Mamba does between the projections of its two directions and its tokens, without gradients and in one go for
// each sequence, which stays in the cache: step sizes, both scans, Gaussian decay, merge, layer norm.
#pragma once

#include <limits>

#include "rows.h"

namespace mim {

// One direction: its sequences (rows, length, channels), what x_proj makes of them (rows, length, rank + 2 states), and
// its parameters as in `Inputs`, dt_weight (channels, rank) besides.
template <class T>
struct Direction {
  Inputs<T> in;
  const T *projected, *dt_weight;
  int64_t rank;
};

template <class T>
struct MergeInputs {
  Direction<T> ahead, behind;
  const int64_t *to_ahead, *to_behind;  // (orders, length), where a direction's token belongs; rows take them in turn
  int64_t orders;
  const T *index_weight, *norm_weight, *norm_bias;  // (length), (channels), (channels)
  const T* attention;                               // of maximum and mean, and the bias; null for none
  int64_t centre;
  bool by_feature, halves;
  T eps;
};

// The weights of one direction, in vectors over channels.
template <class T>
struct Packed {
  Vectors<T> A, dt_weight;  // (block, state), (block, rank)

  explicit Packed(const Direction<T>& d) : A(pack_A(d.in)), dt_weight(d.in.blocks() * d.rank) {
    for (int64_t channel = 0; channel < d.in.channels; ++channel)
      for (int64_t r = 0; r < d.rank; ++r)
        dt_weight[channel / LANES<T> * d.rank + r][channel % LANES<T>] = d.dt_weight[channel * d.rank + r];
  }
};

template <class T>
T sum_of(Vector<T> v) {
  T sum = 0;
  for (int64_t k = 0; k < LANES<T>; ++k) sum += v[k];
  return sum;
}

// Scan one row of a direction into y, (block, t).
template <class T>
void scan_direction(const Direction<T>& d, Packed<T>& packed, Sequence<T>& s, int64_t row, Vectors<T>& y) {
  const auto& in = d.in;
  const int64_t width = d.rank + 2 * in.states;
  const T* projected = d.projected + row * in.length * width;
  s.row = row;
  for (int64_t t = 0; t < in.length; ++t) {
    std::copy_n(projected + t * width + d.rank, in.states, s.B.begin() + t * in.padded_states());
    std::copy_n(projected + t * width + d.rank + in.states, in.states, s.C.begin() + t * in.padded_states());
  }
  for (int64_t block = 0; block < in.blocks(); ++block) {
    s.start_block(block);
    const Vector<T>* weight = packed.dt_weight.at(block * d.rank);
    for (int64_t t = 0; t < in.length; ++t) {
      Vector<T> raw = s.bias;
      for (int64_t r = 0; r < d.rank; ++r) raw += weight[r] * projected[t * width + r];
      s.take_step(t, mim::softplus(raw));
    }
    forward_block(s, packed.A.at(block * in.padded_states()), y.at(block * in.length));
  }
}

// Gaussian decay of the tokens of y, (block, t), towards the centre.
template <class T>
void decay_weights(const MergeInputs<T>& m, Vectors<T>& y, std::vector<T>& w) {
  const auto& in = m.ahead.in;
  std::copy_n(m.index_weight, in.length, w.begin());
  if (!m.by_feature) return;
  std::vector<T> distance(in.length);
  T scale = 0;
  for (int64_t t = 0; t < in.length; ++t) {
    Vector<T> squares{};
    for (int64_t block = 0; block < in.blocks(); ++block) {
      const Vector<T> apart = y[block * in.length + t] - y[block * in.length + m.centre];
      squares += apart * apart;
    }
    distance[t] = std::sqrt(sum_of<T>(squares));
    scale += distance[t] / in.length;
  }
  if (!(scale > 0)) return;  // all tokens are equal
  for (int64_t t = 0; t < in.length; ++t) {
    const T ratio = distance[t] / scale;
    w[t] *= Elementary<T>::exp(T(-0.5) * ratio * ratio);
  }
}

// Memory of one thread.
template <class T>
struct Merger {
  const MergeInputs<T>& m;
  Sequence<T> s_ahead, s_behind;
  Vectors<T> ahead, behind, token, mask, gain, offset;  // the last four (block)
  std::vector<T> w_ahead, w_behind;

  explicit Merger(const MergeInputs<T>& m)
      : m(m),
        s_ahead(m.ahead.in),
        s_behind(m.behind.in),
        ahead(m.ahead.in.blocks() * m.ahead.in.length),
        behind(m.ahead.in.blocks() * m.ahead.in.length),
        token(m.ahead.in.blocks()),
        mask(m.ahead.in.blocks()),
        gain(m.ahead.in.blocks()),
        offset(m.ahead.in.blocks()),
        w_ahead(m.ahead.in.length),
        w_behind(m.ahead.in.length) {
    const auto& in = m.ahead.in;
    for (int64_t channel = 0; channel < in.channels; ++channel) {
      const int64_t block = channel / LANES<T>, lane = channel % LANES<T>;
      mask[block][lane] = 1;  // 0 in the lanes past the last channel
      gain[block][lane] = m.norm_weight[channel];
      offset[block][lane] = m.norm_bias[channel];
    }
  }

  // Sequence attention: the token times the logistic function of a weighting of its channels' maximum and mean.
  void attend() {
    const int64_t channels = m.ahead.in.channels, whole = channels / LANES<T>;
    Vector<T> most = Vector<T>{} - std::numeric_limits<T>::max(), sum{};
    for (int64_t block = 0; block < whole; ++block) most = token[block] > most ? token[block] : most;
    for (int64_t block = 0; block < m.ahead.in.blocks(); ++block) sum += token[block];  // 0 past the last channel
    T largest = most[0];
    for (int64_t k = 1; k < LANES<T>; ++k) largest = std::max(largest, T(most[k]));
    for (int64_t k = 0; k < channels % LANES<T>; ++k) largest = std::max(largest, T(token[whole][k]));
    const T* w = m.attention;
    const T share = 1 / (1 + std::exp(-(w[0] * largest + w[1] * sum_of<T>(sum) / channels + w[2])));
    for (int64_t block = 0; block < m.ahead.in.blocks(); ++block) token[block] *= share;
  }

  // a ahead_i + b behind_j, normalised over the channels.
  void write_token(T a, int64_t i, T b, int64_t j, T* out) {
    const auto& in = m.ahead.in;
    Vector<T> sum{}, squares{};
    for (int64_t block = 0; block < in.blocks(); ++block) {
      token[block] = a * ahead[block * in.length + i] + b * behind[block * in.length + j];
      sum += token[block];
    }
    const T mean = sum_of<T>(sum) / in.channels;
    for (int64_t block = 0; block < in.blocks(); ++block) {
      token[block] = (token[block] - mean) * mask[block];
      squares += token[block] * token[block];
    }
    const T scale = 1 / std::sqrt(sum_of<T>(squares) / in.channels + m.eps);
    for (int64_t block = 0; block < in.blocks(); ++block) token[block] = token[block] * scale * gain[block] + offset[block];
    if (m.attention) attend();
    for (int64_t block = 0; block < in.blocks(); ++block)
      store(out + block * LANES<T>, token[block], std::min(LANES<T>, in.channels - block * LANES<T>));
  }

  // (2 length - 1, channels) of halves that share their last token, else (length, channels).
  void merge_row(int64_t row, T* out) {
    const int64_t length = m.ahead.in.length, last = length - 1, channels = m.ahead.in.channels;
    const int64_t *to_ahead = m.to_ahead + row % m.orders * length, *to_behind = m.to_behind + row % m.orders * length;
    for (int64_t t = 0; t <= last; ++t) {
      T* to = out + to_ahead[t] * channels;
      if (!m.halves)
        write_token(w_ahead[t] / 2, t, w_behind[last - t] / 2, last - t, to);
      else if (t == last)
        write_token(w_ahead[t] / 2, t, w_behind[t] / 2, t, to);
      else {
        write_token(w_ahead[t], t, 0, t, to);
        write_token(0, t, w_behind[t], t, out + to_behind[t] * channels);
      }
    }
  }
};

}  // namespace mim
