// How numbers lie in vectors: a channel in each lane, blocks of channels side by side, and states and steps filled up
// to whole groups.
#pragma once

#include "vectors.h"

namespace mim {

// States that are scanned together, and steps whose sums over channels are taken together: what they add to
// the gradients of B and C fills as many vectors as there are lanes.
template <class T>
constexpr int64_t STATES = LANES<T> < 8 ? LANES<T> / 2 : 4;
template <class T>
constexpr int64_t STEPS = LANES<T> / (2 * STATES<T>);

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Vectors that hold n numbers.
template <class T>
int64_t vectors_for(int64_t n) {
  return round_up(n, LANES<T>) / LANES<T>;
}

// The sizes of a sequence; states: of each channel, 0 if there are none.
template <class T>
struct Geometry {
  int64_t channels, length, states = 0;

  int64_t blocks() const { return vectors_for<T>(channels); }
  int64_t padded_channels() const { return blocks() * LANES<T>; }
  int64_t padded_length() const { return round_up(length, STEPS<T>); }
  int64_t padded_states() const { return round_up(states, STATES<T>); }
  int64_t first(int64_t block) const { return block * LANES<T>; }  // the first channel of a block
  int64_t width(int64_t block) const { return std::min(LANES<T>, channels - first(block)); }  // its channels
  // The place of a number of A, (channels, states), among the numbers of its vectors, (block, padded state).
  int64_t state_at(int64_t channel, int64_t state) const {
    return (channel / LANES<T> * padded_states() + state) * LANES<T> + channel % LANES<T>;
  }
};

}  // namespace mim
