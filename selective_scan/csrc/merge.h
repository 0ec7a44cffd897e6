// What a T-Mamba does with the scans of its two directions, forward and back: Gaussian decay, merge, layer norm, sequence
// attention. One sequence at a time, which lies as (step, block) in vectors over the channels.
#pragma once

#include <limits>

#include "blocks.h"

namespace mim {

template <class T>
struct MergeOptions {
  int64_t channels, length;
  const T *index_weight, *norm_weight, *norm_bias;  // (length), (channels), (channels)
  const T* attention;                               // of maximum and mean, and the bias; null for none
  int64_t centre;
  bool by_feature, halves;
  T eps;

  int64_t blocks() const { return round_up(channels, LANES<T>) / LANES<T>; }
  int64_t merged_length() const { return halves ? 2 * length - 1 : length; }
};

template <class T>
T sum_of(Vector<T> v) {
  T lanes[LANES<T>];
  std::memcpy(lanes, &v, sizeof v);
  for (int64_t half = LANES<T> / 2; half > 0; half /= 2)
    for (int64_t k = 0; k < half; ++k) lanes[k] += lanes[k + half];
  return lanes[0];
}

// The Gaussian decay of one direction's tokens y towards the centre.
template <class T>
struct Decay {
  const MergeOptions<T>& m;
  std::vector<T> weight, distance, to_distance;
  T scale = 0;
  Vectors<T> centre;

  explicit Decay(const MergeOptions<T>& m)
      : m(m), weight(m.length), distance(m.length), to_distance(m.length), centre(m.blocks()) {}

  bool even() const { return !m.by_feature || !(scale > 0); }  // all tokens are equal, or it does not matter

  void weigh(Vectors<T>& y) {
    std::copy_n(m.index_weight, m.length, weight.begin());
    if (!m.by_feature) return;
    scale = 0;
    for (int64_t t = 0; t < m.length; ++t) {
      Vector<T> squares{};
      for (int64_t block = 0; block < m.blocks(); ++block) {
        const Vector<T> apart = y[t * m.blocks() + block] - y[m.centre * m.blocks() + block];
        squares += apart * apart;
      }
      distance[t] = std::sqrt(sum_of<T>(squares));
      scale += distance[t] / m.length;
    }
    if (even()) return;
    for (int64_t t = 0; t < m.length; ++t) {
      const T ratio = distance[t] / scale;
      weight[t] *= Elementary<T>::exp(T(-0.5) * ratio * ratio);
    }
  }

  // grad: of what is decayed on entry, of y on return.
  void back(Vectors<T>& y, Vectors<T>& grad) {
    const int64_t B = m.blocks();
    T to_scale = 0;
    for (int64_t t = 0; t < m.length; ++t) {
      Vector<T> to_weight{};
      for (int64_t block = 0; block < B; ++block) {
        to_weight += grad[t * B + block] * y[t * B + block];
        grad[t * B + block] *= weight[t];
      }
      if (even()) continue;
      const T ratio = distance[t] / scale, to_ratio = -sum_of<T>(to_weight) * weight[t] * ratio;
      to_distance[t] = to_ratio / scale;
      to_scale -= to_ratio * ratio / scale;
    }
    if (even()) return;
    for (int64_t block = 0; block < B; ++block) centre[block] = y[m.centre * B + block];
    for (int64_t t = 0; t < m.length; ++t) {
      if (!(distance[t] > 0)) continue;
      const T along = (to_distance[t] + to_scale / m.length) / distance[t];
      for (int64_t block = 0; block < B; ++block) {
        const Vector<T> part = along * (y[t * B + block] - centre[block]);
        grad[t * B + block] += part;
        grad[m.centre * B + block] -= part;
      }
    }
  }
};

// Memory of one thread: both directions' tokens, in their own order, and one merged token.
template <class T>
struct Merger {
  const MergeOptions<T>& m;
  Vectors<T> ahead, behind;
  Decay<T> decay_ahead, decay_behind;
  Vectors<T> token, mask, gain, offset, merged;  // merged: (token in raster order, block)
  T scale = 0, largest = 0, mean = 0, share = 0;

  explicit Merger(const MergeOptions<T>& m)
      : m(m),
        ahead(m.length * m.blocks()),
        behind(m.length * m.blocks()),
        decay_ahead(m),
        decay_behind(m),
        token(m.blocks()),
        mask(m.blocks()),
        gain(m.blocks()),
        offset(m.blocks()),
        merged(m.merged_length() * m.blocks()) {
    for (int64_t channel = 0; channel < m.channels; ++channel) {
      const int64_t block = channel / LANES<T>, lane = channel % LANES<T>;
      mask[block][lane] = 1;  // 0 in the lanes past the last channel
      gain[block][lane] = m.norm_weight[channel];
      offset[block][lane] = m.norm_bias[channel];
    }
  }

  void weigh() {
    decay_ahead.weigh(ahead);
    decay_behind.weigh(behind);
  }

  // The token is a_share of ahead's i-th and b_share of behind's j-th, decayed and normalised over the channels but for
  // gain and offset.
  void normalise(T a_share, int64_t i, T b_share, int64_t j) {
    const T a = a_share * decay_ahead.weight[i], b = b_share * decay_behind.weight[j];
    Vector<T> sum{}, squares{};
    for (int64_t block = 0; block < m.blocks(); ++block) {
      token[block] = a * ahead[i * m.blocks() + block] + b * behind[j * m.blocks() + block];
      sum += token[block];
    }
    const T centre = sum_of<T>(sum) / m.channels;
    for (int64_t block = 0; block < m.blocks(); ++block) {
      token[block] = (token[block] - centre) * mask[block];
      squares += token[block] * token[block];
    }
    scale = 1 / std::sqrt(sum_of<T>(squares) / m.channels + m.eps);
    for (int64_t block = 0; block < m.blocks(); ++block) token[block] *= scale;
  }

  Vector<T> normed(int64_t block) { return token[block] * gain[block] + offset[block]; }

  // Sequence attention: the logistic function of a weighting of the normed channels' maximum and mean.
  void attend() {
    const int64_t whole = m.channels / LANES<T>, left = m.channels % LANES<T>;
    Vector<T> most = Vector<T>{} - std::numeric_limits<T>::max(), sum{};
    for (int64_t block = 0; block < m.blocks(); ++block) {
      const Vector<T> v = normed(block);
      sum += v;  // 0 past the last channel
      if (block < whole) most = v > most ? v : most;
    }
    largest = most[0];
    for (int64_t k = 1; k < LANES<T>; ++k) largest = std::max(largest, T(most[k]));
    for (int64_t k = 0; k < left; ++k) largest = std::max(largest, T(normed(whole)[k]));
    mean = sum_of<T>(sum) / m.channels;
    const T* w = m.attention;
    share = 1 / (1 + Elementary<T>::exp(-(w[0] * largest + w[1] * mean + w[2])));
  }

  // Call use(a_share, i, b_share, j, place) for every token of the merged sequence; it belongs at `place` in raster order.
  template <class Use>
  void each_token(const int64_t* to_ahead, const int64_t* to_behind, Use use) {
    const int64_t last = m.length - 1;
    for (int64_t t = 0; t <= last; ++t) {
      if (!m.halves)
        use(T(0.5), t, T(0.5), last - t, to_ahead[t]);
      else if (t == last)
        use(T(0.5), t, T(0.5), t, to_ahead[t]);
      else {
        use(T(1), t, T(0), t, to_ahead[t]);
        use(T(0), t, T(1), t, to_behind[t]);
      }
    }
  }

  // What is scanned, weighed and merged, into `merged`.
  void merge(const int64_t* to_ahead, const int64_t* to_behind) {
    each_token(to_ahead, to_behind, [&](T a_share, int64_t i, T b_share, int64_t j, int64_t place) {
      normalise(a_share, i, b_share, j);
      share = 1;
      if (m.attention) attend();
      for (int64_t block = 0; block < m.blocks(); ++block) merged[place * m.blocks() + block] = share * normed(block);
    });
  }
};

// Sums of the parameters' gradients.
template <class T>
struct MergeSums {
  Vectors<T> gain, offset;
  T attention[3] = {};

  explicit MergeSums(const MergeOptions<T>& m) : gain(m.blocks()), offset(m.blocks()) {}

  void add(const MergeSums& other) {
    gain.add(other.gain);
    offset.add(other.offset);
    for (int64_t i = 0; i < 3; ++i) attention[i] += other.attention[i];
  }
};

template <class T>
struct MergerBack : Merger<T> {
  Vectors<T> grad_ahead, grad_behind, grad;
  MergeSums<T>* sums = nullptr;  // what is added to

  explicit MergerBack(const MergeOptions<T>& m)
      : Merger<T>(m),
        grad_ahead(m.length * m.blocks()),
        grad_behind(m.length * m.blocks()),
        grad(m.blocks()) {}

  // From the gradient of `merged` to those of the two directions' tokens, whose weights are there.
  void back(const int64_t* to_ahead, const int64_t* to_behind, Vectors<T>& grad_merged) {
    const auto& m = this->m;
    grad_ahead.clear();
    grad_behind.clear();
    this->each_token(to_ahead, to_behind, [&](T a_share, int64_t i, T b_share, int64_t j, int64_t place) {
      this->normalise(a_share, i, b_share, j);
      for (int64_t block = 0; block < m.blocks(); ++block) grad[block] = grad_merged[place * m.blocks() + block];
      if (m.attention) back_through_attention();
      back_through_norm();
      for (int64_t block = 0; block < m.blocks(); ++block) {
        grad_ahead[i * m.blocks() + block] += a_share * grad[block];
        grad_behind[j * m.blocks() + block] += b_share * grad[block];
      }
    });
    this->decay_ahead.back(this->ahead, grad_ahead);
    this->decay_behind.back(this->behind, grad_behind);
  }

  void back_through_attention() {
    const auto& m = this->m;
    this->attend();
    Vector<T> to_share{}, ties{};
    const auto is_largest = [&](int64_t block) {  // 1 where the channel is the largest; equal ones share
      return (this->normed(block) == this->largest ? Vector<T>{} + T(1) : Vector<T>{}) * this->mask[block];
    };
    for (int64_t block = 0; block < m.blocks(); ++block) {
      to_share += grad[block] * this->normed(block);
      ties += is_largest(block);
    }
    const T share = this->share, inner = sum_of<T>(to_share) * share * (1 - share);
    const T to_mean = inner * m.attention[1] / m.channels, to_largest = inner * m.attention[0] / sum_of<T>(ties);
    sums->attention[0] += inner * this->largest;
    sums->attention[1] += inner * this->mean;
    sums->attention[2] += inner;
    for (int64_t block = 0; block < m.blocks(); ++block)
      grad[block] = grad[block] * share + to_mean * this->mask[block] + to_largest * is_largest(block);
  }

  void back_through_norm() {
    const auto& m = this->m;
    Vector<T> sum{}, along{};
    for (int64_t block = 0; block < m.blocks(); ++block) {
      const Vector<T> x = this->token[block];
      sums->gain[block] += grad[block] * x;
      sums->offset[block] += grad[block];
      grad[block] *= this->gain[block];
      sum += grad[block];
      along += grad[block] * x;
    }
    const T mean = sum_of<T>(sum) / m.channels, slope = sum_of<T>(along) / m.channels;
    for (int64_t block = 0; block < m.blocks(); ++block)
      grad[block] = (grad[block] - mean - slope * this->token[block]) * (this->scale * this->mask[block]);
  }
};

}  // namespace mim
