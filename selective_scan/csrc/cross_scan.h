// A T-Mamba between its projections and its tokens, sample by sample: both directions along all orders, and their
// merge.
#pragma once

#include <memory>

#include "direction.h"
#include "learner.h"
#include "merge.h"

namespace mim {

template <class T>
struct CrossScan {
  Sizes<T> n;
  MergeOptions<T> m;
  LearnerSizes<T> l;
  const T *tokens, *score;                    // (batch, n_tokens, channels), (averages, channels)
  const int64_t *ahead_order, *behind_order;  // (orders, length)

  const T* sample(int64_t b) const { return tokens + b * n.n_tokens * n.channels; }
  const int64_t* ahead(int64_t o) const { return ahead_order + o * n.length; }
  const int64_t* behind(int64_t o) const { return behind_order + o * n.length; }
  // The number of tokens that result from a sequence, averages or all that are merged, and their place.
  int64_t n_out() const { return l.averages ? l.averages : l.length; }
  int64_t out_at(int64_t b, int64_t o) const { return (b * n.orders + o) * n_out() * n.channels; }
  // The place of a direction's scans in what is kept: (batch, orders, 2, length, channels).
  int64_t kept_at(int64_t b, int64_t o, int64_t way) const {
    return ((b * n.orders + o) * 2 + way) * n.length * n.channels;
  }
};

// Between numbers side by side, (steps, channels), and vectors, (step, block).
template <class T>
void write(const Geometry<T>& n, int64_t steps, Vectors<T>& from, T* to) {
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t block = 0; block < n.blocks(); ++block)
      store(to + t * n.channels + n.first(block), from[t * n.blocks() + block], n.width(block));
}

template <class T>
void read(const Geometry<T>& n, int64_t steps, const T* from, Vectors<T>& to) {
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t block = 0; block < n.blocks(); ++block)
      to[t * n.blocks() + block] = load(from + t * n.channels + n.first(block), n.width(block));
}

// The parameters as the threads read them.
template <class T>
struct AllWeights {
  Weights<T> ahead, behind;
  Scores<T> scores;

  AllWeights(const CrossScan<T>& c, const Parameters<T>& ahead, const Parameters<T>& behind)
      : ahead(c.n, ahead), behind(c.n, behind), scores(c.l, c.score) {}
};

// Samples begin to end into out, (batch, orders, tokens, channels); the scans into `kept` if it is not null.
template <class T>
void scan_samples(const CrossScan<T>& c, AllWeights<T>& weights, int64_t begin, int64_t end, T* out, T* kept) {
  DirectionForward<T> ahead(c.n, weights.ahead), behind(c.n, weights.behind);
  Merger<T> merger(c.m);
  Learner<T> learner(c.l, weights.scores);
  for (int64_t b = begin; b < end; ++b)
    for (int64_t o = 0; o < c.n.orders; ++o) {
      ahead.scan(c.sample(b), c.ahead(o), merger.ahead);
      behind.scan(c.sample(b), c.behind(o), merger.behind);
      if (kept) {
        write(c.n, c.n.length, merger.ahead, kept + c.kept_at(b, o, 0));
        write(c.n, c.n.length, merger.behind, kept + c.kept_at(b, o, 1));
      }
      merger.merge(c.ahead(o), c.behind(o));
      if (c.l.averages) learner.average(merger.merged);
      write(c.n, c.n_out(), c.l.averages ? learner.averages : merger.merged, out + c.out_at(b, o));
    }
}

// Sums of the parameters' gradients over a group of samples.
template <class T>
struct Sums {
  Packed<T> ahead, behind;
  MergeSums<T> merge;
  Vectors<T> score;  // (average, block)

  explicit Sums(const CrossScan<T>& c) : ahead(c.n), behind(c.n), merge(c.m), score(c.l.averages * c.l.blocks()) {}

  void add(Sums& other) {
    ahead.add(other.ahead);
    behind.add(other.behind);
    merge.add(other.merge);
    score.add(other.score);
  }
};

// Memory of one thread in the backward pass.
template <class T>
struct SamplesBackward {
  const CrossScan<T>& c;
  DirectionBackward<T> ahead, behind;
  MergerBackward<T> merger;
  LearnerBackward<T> learner;
  Vectors<T> grad_out, grad_merged;

  SamplesBackward(const CrossScan<T>& c, AllWeights<T>& weights)
      : c(c),
        ahead(c.n, weights.ahead),
        behind(c.n, weights.behind),
        merger(c.m),
        learner(c.l, weights.scores),
        grad_out(c.n_out() * c.n.blocks()),
        grad_merged(c.l.averages ? c.l.length * c.n.blocks() : 0) {}

  // Gradients of the tokens, (batch, n_tokens, channels), are added to what is there.
  void run(int64_t begin, int64_t end, const T* grad, const T* kept, T* grad_tokens, Sums<T>& sums) {
    ahead.sums = &sums.ahead;
    behind.sums = &sums.behind;
    merger.sums = &sums.merge;
    for (int64_t b = begin; b < end; ++b)
      for (int64_t o = 0; o < c.n.orders; ++o) {
        T* to = grad_tokens + b * c.n.n_tokens * c.n.channels;
        read(c.n, c.n.length, kept + c.kept_at(b, o, 0), merger.ahead);
        read(c.n, c.n.length, kept + c.kept_at(b, o, 1), merger.behind);
        read(c.n, c.n_out(), grad + c.out_at(b, o), grad_out);
        merger.merge(c.ahead(o), c.behind(o));
        if (c.l.averages) learner.backward(merger.merged, grad_out, grad_merged, sums.score);
        merger.backward(c.l.averages ? grad_merged : grad_out);
        ahead.backward(c.sample(b), c.ahead(o), merger.grad_ahead, to);
        behind.backward(c.sample(b), c.behind(o), merger.grad_behind, to);
      }
  }
};

}  // namespace mim
