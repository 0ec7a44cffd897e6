// How long exponentials alone take, arguments and sums in cache: the compiler's vector library, or (OURS) our
// polynomial.
#include <cmath>
#include <cstdint>

#ifdef OURS
#include "../selective_scan/csrc/vectors.h"
using mim::Vector;

extern "C" void exponentials(const float* A, float* sums, int64_t size, int64_t rounds) {
  constexpr int64_t lanes = mim::LANES<float>;
  for (int64_t round = 0; round < rounds; ++round) {
    const Vector<float> delta = Vector<float>{} + 0.001f * (round % 100);
    for (int64_t i = 0; i < size; i += lanes) {
      const auto sum = mim::load(sums + i, lanes) + mim::decay(delta, mim::load(A + i, lanes));
      mim::store(sums + i, sum, lanes);
    }
  }
}
#else
__attribute__((noinline)) void one_round(const float* __restrict A, float* __restrict sums, int64_t size, float delta) {
  for (int64_t i = 0; i < size; ++i) sums[i] += std::exp(delta * A[i]);
}

extern "C" void exponentials(const float* A, float* sums, int64_t size, int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) one_round(A, sums, size, 0.001f * (round % 100));
}
#endif
