// What a T-Mamba does with the scans of its two directions, forward and backward: merge, layer norm, sequence
// attention. One sequence at a time, which lies as (step, block) in vectors over the channels.
#pragma once

#include <limits>

#include "decay.h"

namespace mim {

// What a merged token is made of: a of ahead's i-th and b of behind's j-th.
template <class T>
struct Part {
  T a, b;
  int64_t i, j;
};

// Memory of one thread: both directions' tokens, each in its order, and what is merged from them.
template <class T>
struct Merger {
  const MergeOptions<T>& m;
  Vectors<T> ahead, behind;
  Decay<T> decay_ahead, decay_behind;
  Vectors<T> mask, outside, gain, offset;
  std::vector<Part<T>> parts;
  const int64_t *to_ahead = nullptr, *to_behind = nullptr;  // the orders of the two directions
  Vectors<T> token, merged;  // (part, block), normalised but for gain and offset; (token in raster order, block)
  PerToken<T> scale, largest, mean, attention;  // of the parts

  explicit Merger(const MergeOptions<T>& m)
      : m(m),
        ahead(m.length * m.blocks()),
        behind(m.length * m.blocks()),
        decay_ahead(m),
        decay_behind(m),
        mask(m.blocks()),
        outside(m.blocks()),
        gain(m.blocks()),
        offset(m.blocks()),
        token(m.merged_length() * m.blocks()),
        merged(m.merged_length() * m.blocks()),
        scale(m.merged_length()),
        largest(m.merged_length()),
        mean(m.merged_length()),
        attention(m.merged_length()) {
    std::fill_n(numbers(mask), m.channels, T(1));
    std::fill(numbers(outside) + m.channels, numbers(outside) + m.padded_channels(), std::numeric_limits<T>::lowest());
    std::copy_n(m.norm_weight, m.channels, numbers(gain));
    std::copy_n(m.norm_bias, m.channels, numbers(offset));
    const int64_t last = m.length - 1;
    const T half = T(0.5);
    for (int64_t t = 0; t <= last; ++t) {
      if (!m.halves)
        parts.push_back({half, half, t, last - t});
      else if (t == last)
        parts.push_back({half, half, t, t});
      else {
        parts.push_back({1, 0, t, t});
        parts.push_back({0, 1, t, t});
      }
    }
  }

  // Lane k: the mean over the channels of part(k), for k below n.
  template <class Part>
  MIM_INLINE Vector<T> mean_each(int64_t n, Part part) const {
    return sum_each<T>(n, part) / T(m.channels);
  }
  Vector<T> normed(int64_t p, int64_t block) { return token[p * m.blocks() + block] * gain[block] + offset[block]; }
  int64_t place(int64_t p) const { return parts[p].a > 0 ? to_ahead[parts[p].i] : to_behind[parts[p].j]; }

  // What is scanned, weighed and merged, into `merged`.
  void merge(const int64_t* ahead_order, const int64_t* behind_order) {
    to_ahead = ahead_order;
    to_behind = behind_order;
    decay_ahead.weigh(ahead);
    decay_behind.weigh(behind);
    for (int64_t first = 0; first < m.merged_length(); first += LANES<T>)
      merge_group(first, std::min(LANES<T>, m.merged_length() - first));
  }

  // As many tokens as a vector has lanes: what is a sum over a token's channels is taken for all of them together.
  void merge_group(int64_t first, int64_t n) {
    const int64_t B = m.blocks(), group = first / LANES<T>;
    const Vector<T> centre = mean_each(n, [&](int64_t k) {
      const Part<T>& part = parts[first + k];
      const T a = part.a * decay_ahead.weight.of(part.i), b = part.b * decay_behind.weight.of(part.j);
      Vector<T> sum{};
      for (int64_t block = 0; block < B; ++block)
        sum += token[(first + k) * B + block] = a * ahead[part.i * B + block] + b * behind[part.j * B + block];
      return sum;
    });
    const Vector<T> variance = mean_each(n, [&](int64_t k) {
      Vector<T> squares{};
      for (int64_t block = 0; block < B; ++block) {
        Vector<T>& x = token[(first + k) * B + block];
        x = (x - centre[k]) * mask[block];
        squares += x * x;
      }
      return squares;
    });
    scale[group] = T(1) / square_root<T>(variance + m.eps);
    for (int64_t k = 0; k < n; ++k)
      for (int64_t block = 0; block < B; ++block) token[(first + k) * B + block] *= scale.of(first + k);
    attention[group] = Vector<T>{} + T(1);
    if (m.attention) attend(first, n);
    for (int64_t k = 0; k < n; ++k)
      for (int64_t block = 0; block < B; ++block)
        merged[place(first + k) * B + block] = attention.of(first + k) * normed(first + k, block);
  }

  // Sequence attention: the logistic function of a weighting of the normed channels' maximum and mean.
  void attend(int64_t first, int64_t n) {
    const int64_t B = m.blocks(), group = first / LANES<T>;
    Vector<T> most[LANES<T>];
    for (Vector<T>& v : most) v = Vector<T>{} + std::numeric_limits<T>::lowest();
    mean[group] = mean_each(n, [&](int64_t k) {
      Vector<T> sum{};
      for (int64_t block = 0; block < B; ++block) {
        const Vector<T> v = normed(first + k, block);
        sum += v;
        most[k] = larger<T>(most[k], v + outside[block]);
      }
      return sum;
    });
    largest[group] = largest_lanes<T>(most);
    const T* w = m.attention;
    const Vector<T> score = w[0] * largest[group] + w[1] * mean[group] + w[2];
    attention[group] = Elementary<Vector<T>>::reciprocal(T(1) + Elementary<Vector<T>>::exp(-score));
  }
};

// Sums of the parameters' gradients; those of the attention are spread over the lanes.
template <class T>
struct MergeSums {
  Vectors<T> gain, offset, attention;

  explicit MergeSums(const MergeOptions<T>& m) : gain(m.blocks()), offset(m.blocks()), attention(3) {}

  void add(const MergeSums& other) {
    gain.add(other.gain);
    offset.add(other.offset);
    attention.add(other.attention);
  }
};

template <class T>
struct MergerBackward : Merger<T> {
  Vectors<T> grad_ahead, grad_behind, grad;  // grad: of the tokens of a group, (token, block)
  MergeSums<T>* sums = nullptr;              // what is added to

  explicit MergerBackward(const MergeOptions<T>& m)
      : Merger<T>(m),
        grad_ahead(m.length * m.blocks()),
        grad_behind(m.length * m.blocks()),
        grad(LANES<T> * m.blocks()) {}

  // From the gradient of `merged` to those of the two directions' tokens, after `merge`.
  void backward(Vectors<T>& grad_merged) {
    const auto& m = this->m;
    const int64_t B = m.blocks();
    grad_ahead.clear();
    grad_behind.clear();
    for (int64_t first = 0; first < m.merged_length(); first += LANES<T>) {
      const int64_t n = std::min(LANES<T>, m.merged_length() - first);
      for (int64_t k = 0; k < n; ++k) std::copy_n(grad_merged.at(this->place(first + k) * B), B, grad.at(k * B));
      if (m.attention) back_through_attention(first, n);
      back_through_norm(first, n);
      for (int64_t k = 0; k < n; ++k) {
        const Part<T>& part = this->parts[first + k];
        for (int64_t block = 0; block < B; ++block) {
          grad_ahead[part.i * B + block] += part.a * grad[k * B + block];
          grad_behind[part.j * B + block] += part.b * grad[k * B + block];
        }
      }
    }
    this->decay_ahead.backward(this->ahead, grad_ahead);
    this->decay_behind.backward(this->behind, grad_behind);
  }

  // 1 if the channel is the token's largest, else 0.
  Vector<T> is_largest(int64_t p, int64_t block) {
    const Vector<T> one = this->mask[block];
    return this->normed(p, block) == this->largest.of(p) ? one : Vector<T>{};
  }

  void back_through_attention(int64_t first, int64_t n) {
    const auto& m = this->m;
    const int64_t B = m.blocks(), group = first / LANES<T>;
    const Vector<T> to_attention = sum_each<T>(n, [&](int64_t k) {
      Vector<T> sum{};
      for (int64_t block = 0; block < B; ++block) sum += grad[k * B + block] * this->normed(first + k, block);
      return sum;
    });
    const Vector<T> ties = sum_each<T>(n, [&](int64_t k) {
      Vector<T> sum{};
      for (int64_t block = 0; block < B; ++block) sum += is_largest(first + k, block);
      return sum;
    });
    const Vector<T> attention = this->attention[group], inner = to_attention * attention * (T(1) - attention);
    const Vector<T> to_mean = inner * m.attention[1] / T(m.channels), to_largest = inner * m.attention[0] / ties;
    sums->attention[0] += inner * this->largest[group];
    sums->attention[1] += inner * this->mean[group];
    sums->attention[2] += inner;
    for (int64_t k = 0; k < n; ++k)
      for (int64_t block = 0; block < B; ++block)  // equal ones divide the gradient of the largest
        grad[k * B + block] = grad[k * B + block] * attention[k] + to_mean[k] * this->mask[block] +
                              to_largest[k] * is_largest(first + k, block);
  }

  void back_through_norm(int64_t first, int64_t n) {
    const auto& m = this->m;
    const int64_t B = m.blocks();
    const auto x = [&](int64_t k, int64_t block) { return this->token[(first + k) * B + block]; };
    const Vector<T> mean = this->mean_each(n, [&](int64_t k) {
      Vector<T> sum{};
      for (int64_t block = 0; block < B; ++block) {
        Vector<T>& to_normed = grad[k * B + block];
        sums->gain[block] += to_normed * x(k, block);
        sums->offset[block] += to_normed;
        sum += to_normed *= this->gain[block];
      }
      return sum;
    });
    const Vector<T> slope = this->mean_each(n, [&](int64_t k) {
      Vector<T> sum{};
      for (int64_t block = 0; block < B; ++block) sum += grad[k * B + block] * x(k, block);
      return sum;
    });
    for (int64_t k = 0; k < n; ++k)
      for (int64_t block = 0; block < B; ++block)
        grad[k * B + block] =
            (grad[k * B + block] - mean[k] - slope[k] * x(k, block)) * (this->scale.of(first + k) * this->mask[block]);
  }
};

}  // namespace mim
