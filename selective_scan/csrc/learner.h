// The token learner's averages of one sequence, forward and backward: S averages over its tokens, weighed by the
// softmax of their scores. Sequences lie as (token, block) in vectors over the channels, weights as (token, vector of
// averages).
#pragma once

#include <limits>

#include "blocks.h"
#include "product.h"

namespace mim {

template <class T>
struct LearnerSizes : Geometry<T> {
  int64_t averages;  // 0 for no learner

  int64_t columns() const { return vectors_for<T>(averages); }
  int64_t padded_averages() const { return columns() * LANES<T>; }
};

// U1 both ways: (average, block) and (padded channel, column).
template <class T>
struct Scores {
  Vectors<T> by_average, by_channel;

  Scores(const LearnerSizes<T>& n, const T* score)
      : by_average(n.averages * n.blocks()), by_channel(n.padded_channels() * n.columns()) {
    T *rows = numbers(by_average), *columns = numbers(by_channel);
    for (int64_t i = 0; i < n.averages; ++i)
      for (int64_t c = 0; c < n.channels; ++c) {
        rows[i * n.padded_channels() + c] = score[i * n.channels + c];
        columns[c * n.padded_averages() + i] = score[i * n.channels + c];
      }
  }
};

// Memory of one thread.
template <class T>
struct Learner {
  const LearnerSizes<T>& n;
  Scores<T>& scores;
  Vectors<T> weights, averages;

  Learner(const LearnerSizes<T>& n, Scores<T>& scores)
      : n(n), scores(scores), weights(n.length * n.columns()), averages(n.averages * n.blocks()) {}

  void weigh(Vectors<T>& tokens) {
    const int64_t C = n.columns();
    weights.clear();
    add_product<T>(n.length, n.channels, C, {numbers(tokens), n.padded_channels(), 1}, {scores.by_channel.at(0), C},
                   {weights.at(0), C});
    for (int64_t j = 0; j < C; ++j) {
      Vector<T> most = weights[j], sum{};
      for (int64_t t = 1; t < n.length; ++t) most = weights[t * C + j] > most ? weights[t * C + j] : most;
      for (int64_t t = 0; t < n.length; ++t)
        sum += weights[t * C + j] = Elementary<Vector<T>>::exp(weights[t * C + j] - most);
      const Vector<T> scale = T(1) / sum;
      for (int64_t t = 0; t < n.length; ++t) weights[t * C + j] *= scale;
    }
  }

  void average(Vectors<T>& tokens) {
    weigh(tokens);
    averages.clear();
    add_product<T>(n.averages, n.length, n.blocks(), {numbers(weights), 1, n.padded_averages()},
                   {tokens.at(0), n.blocks()}, {averages.at(0), n.blocks()});
  }
};

template <class T>
struct LearnerBackward : Learner<T> {
  Vectors<T> grad_weights, grad_by_channel;

  LearnerBackward(const LearnerSizes<T>& n, Scores<T>& scores)
      : Learner<T>(n, scores),
        grad_weights(n.length * n.columns()),
        grad_by_channel(n.padded_channels() * n.columns()) {}

  // From the gradient of the averages, (average, block), to that of the tokens; `sum` is of the scores'.
  void backward(Vectors<T>& tokens, Vectors<T>& grad_averages, Vectors<T>& grad_tokens, Vectors<T>& sum) {
    const auto& n = this->n;
    const int64_t B = n.blocks(), C = n.columns(), P = n.padded_channels(), A = n.padded_averages();
    this->weigh(tokens);
    for (int64_t i = 0; i < n.averages; ++i)
      for (int64_t c = 0; c < n.channels; ++c) numbers(grad_by_channel)[c * A + i] = numbers(grad_averages)[i * P + c];
    grad_weights.clear();
    add_product<T>(n.length, n.channels, C, {numbers(tokens), P, 1}, {grad_by_channel.at(0), C},
                   {grad_weights.at(0), C});
    for (int64_t j = 0; j < C; ++j) {
      Vector<T> inner{};
      for (int64_t t = 0; t < n.length; ++t) inner += this->weights[t * C + j] * grad_weights[t * C + j];
      for (int64_t t = 0; t < n.length; ++t)
        grad_weights[t * C + j] = this->weights[t * C + j] * (grad_weights[t * C + j] - inner);
    }
    grad_tokens.clear();
    add_product<T>(n.length, n.averages, B, {numbers(this->weights), A, 1}, {grad_averages.at(0), B},
                   {grad_tokens.at(0), B});
    add_product<T>(n.length, n.averages, B, {numbers(grad_weights), A, 1}, {this->scores.by_average.at(0), B},
                   {grad_tokens.at(0), B});
    add_product<T>(n.averages, n.length, B, {numbers(grad_weights), 1, A}, {tokens.at(0), B}, {sum.at(0), B});
  }
};

}  // namespace mim
