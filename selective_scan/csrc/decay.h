// The Gaussian decay of a scanned sequence towards its centre, forward and backward, and sums that many tokens share.
#pragma once

#include "blocks.h"

namespace mim {

// Tokens of two directions merged; halves share their last one.
inline int64_t merged_length(int64_t length, bool halves) { return halves ? 2 * length - 1 : length; }

template <class T>
struct MergeOptions : Geometry<T> {
  const T *index_weight, *norm_weight, *norm_bias;  // (length), (channels), (channels)
  const T* attention;                               // of maximum and mean, and the bias; null for none
  int64_t centre;
  bool by_feature, halves;
  T eps;

  int64_t merged_length() const { return mim::merged_length(this->length, halves); }
};

// A number for each of n tokens, in the lanes of vectors; what lies behind the last is 0 or does not matter.
template <class T>
struct PerToken : Vectors<T> {
  explicit PerToken(int64_t n) : Vectors<T>(vectors_for<T>(n)) {}
  T of(int64_t t) { return numbers<T>(*this)[t]; }
};

// Lane k: the sum over the lanes of part(k), for k below n, 0 behind.
template <class T, class Part>
MIM_INLINE Vector<T> sum_each(int64_t n, Part part) {
  Vector<T> parts[LANES<T>];
  for (int64_t k = 0; k < n; ++k) parts[k] = part(k);
  for (int64_t k = n; k < LANES<T>; ++k) parts[k] = Vector<T>{};
  return sum_lanes<T>(parts);
}

template <class T>
T sum_of(Vector<T> v) {
  T sum = 0;
  for (int64_t k = 0; k < LANES<T>; ++k) sum += v[k];
  return sum;
}

// The Gaussian decay of one direction's tokens y towards the centre.
template <class T>
struct Decay {
  const MergeOptions<T>& m;
  PerToken<T> index_weight, weight, distance, to_distance;
  T scale = 0;
  Vectors<T> centre;

  explicit Decay(const MergeOptions<T>& m)
      : m(m), index_weight(m.length), weight(m.length), distance(m.length), to_distance(m.length), centre(m.blocks()) {
    std::copy_n(m.index_weight, m.length, numbers<T>(index_weight));
    std::copy_n(m.index_weight, m.length, numbers<T>(weight));
  }

  bool even() const { return !m.by_feature || !(scale > 0); }  // all tokens are equal, or it does not matter

  // Call use(group, first, n) for the tokens first to first + n that share a vector of numbers.
  template <class Use>
  void each_group(Use use) {
    for (int64_t first = 0; first < m.length; first += LANES<T>)
      use(first / LANES<T>, first, std::min(LANES<T>, m.length - first));
  }

  void weigh(Vectors<T>& y) {
    if (!m.by_feature) return;
    Vector<T> sum{};
    each_group([&](int64_t group, int64_t first, int64_t n) {
      sum += distance[group] = square_root<T>(sum_each<T>(n, [&](int64_t k) {
        Vector<T> squares{};
        for (int64_t block = 0; block < m.blocks(); ++block) {
          const Vector<T> apart = y[(first + k) * m.blocks() + block] - y[m.centre * m.blocks() + block];
          squares += apart * apart;
        }
        return squares;
      }));
    });
    scale = sum_of<T>(sum) / m.length;
    each_group([&](int64_t group, int64_t, int64_t) {
      weight[group] = index_weight[group];
      if (even()) return;
      const Vector<T> ratio = distance[group] / scale;
      weight[group] *= Elementary<Vector<T>>::exp(T(-0.5) * ratio * ratio);
    });
  }

  // grad: of what is decayed on entry, of y on return.
  void backward(Vectors<T>& y, Vectors<T>& grad) {
    const int64_t B = m.blocks();
    Vector<T> sum{};
    each_group([&](int64_t group, int64_t first, int64_t n) {
      const Vector<T> to_weight = sum_each<T>(n, [&](int64_t k) {
        const int64_t t = first + k;
        Vector<T> part{};
        for (int64_t block = 0; block < B; ++block) {
          part += grad[t * B + block] * y[t * B + block];
          grad[t * B + block] *= weight.of(t);
        }
        return part;
      });
      if (even()) return;
      const Vector<T> ratio = distance[group] / scale, to_ratio = -to_weight * weight[group] * ratio;
      to_distance[group] = to_ratio / scale;
      sum -= to_ratio * ratio / scale;
    });
    if (even()) return;
    const T to_each = sum_of<T>(sum) / m.length;
    for (int64_t block = 0; block < B; ++block) centre[block] = y[m.centre * B + block];
    for (int64_t t = 0; t < m.length; ++t) {
      if (!(distance.of(t) > 0)) continue;
      const T along = (to_distance.of(t) + to_each) / distance.of(t);
      for (int64_t block = 0; block < B; ++block) {
        const Vector<T> part = along * (y[t * B + block] - centre[block]);
        grad[t * B + block] += part;
        grad[m.centre * B + block] -= part;
      }
    }
  }
};

}  // namespace mim
