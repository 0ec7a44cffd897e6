// Vectors of numbers as the processor's registers hold them, with the functions that the scan needs of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "recurrence.h"

namespace mim {

#if defined(__AVX512F__)
constexpr int64_t REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t REGISTER_BYTES = 32;
#else
constexpr int64_t REGISTER_BYTES = 16;
#endif

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(REGISTER_BYTES)));
  typedef uint32_t Index __attribute__((vector_size(REGISTER_BYTES)));
};

template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(REGISTER_BYTES)));
  typedef uint64_t Index __attribute__((vector_size(REGISTER_BYTES)));
};

template <class T>
using Vector = typename Lanes<T>::Vector;

template <class T>
constexpr int64_t LANES = REGISTER_BYTES / sizeof(T);

#if defined(__AVX__)
// One instruction each; GCC makes two of the ternary operator.
struct RegisterClamp {
  static MIM_INLINE Vector<float> between(Vector<float> least, Vector<float> x, Vector<float> most) {
#if defined(__AVX512F__)
    return _mm512_min_ps(most, _mm512_max_ps(least, x));
#else
    return _mm256_min_ps(most, _mm256_max_ps(least, x));
#endif
  }
};
#else
typedef Clamp RegisterClamp;
#endif

template <>
struct Elementary<Vector<float>> : ElementaryByPolynomial<Vector<float>, Lanes<float>::Index, RegisterClamp> {};

template <>
struct Elementary<Vector<double>> {
  template <class Function>
  static MIM_INLINE Vector<double> each(Vector<double> x, Function function) {
    for (int64_t k = 0; k < LANES<double>; ++k) x[k] = function(x[k]);
    return x;
  }
  static MIM_INLINE Vector<double> exp2(Vector<double> x) { return each(x, Elementary<double>::exp2); }
  static MIM_INLINE Vector<double> exp(Vector<double> x) { return each(x, Elementary<double>::exp); }
  static MIM_INLINE Vector<double> log1p(Vector<double> x) { return each(x, Elementary<double>::log1p); }
};

template <class T>
MIM_INLINE Vector<T> load(const T* from, int64_t width) {
  Vector<T> v{};
  if (width == LANES<T>)
    std::memcpy(&v, from, sizeof v);
  else
    for (int64_t k = 0; k < width; ++k) v[k] = from[k];
  return v;
}

template <class T>
MIM_INLINE void store(T* to, Vector<T> v, int64_t width) {
  if (width == LANES<T>)
    std::memcpy(to, &v, sizeof v);
  else
    for (int64_t k = 0; k < width; ++k) to[k] = v[k];
}

// An array of vectors, zero at the start and aligned as they need.
template <class T>
class Vectors {
 public:
  explicit Vectors(int64_t size) : size_(size), storage_((size + 1) * LANES<T>, T(0)) {
    void* start = storage_.data();
    size_t space = storage_.size() * sizeof(T);
    data_ = static_cast<Vector<T>*>(std::align(REGISTER_BYTES, size * REGISTER_BYTES, start, space));
  }
  MIM_INLINE Vector<T>& operator[](int64_t i) { return data_[i]; }
  MIM_INLINE Vector<T>* at(int64_t i) { return data_ + i; }
  int64_t size() const { return size_; }
  void clear() { std::fill_n(data_, size_, Vector<T>{}); }
  void add(const Vectors& other) {
    for (int64_t i = 0; i < size_; ++i) data_[i] += other.data_[i];
  }

 private:
  int64_t size_;
  std::vector<T> storage_;
  Vector<T>* data_;
};

// The same as numbers one after another.
template <class T>
T* numbers(Vectors<T>& v) {
  return reinterpret_cast<T*>(v.at(0));
}

// The sums over the lanes of as many vectors as there are lanes: lane k of the result is the sum of vector k. Each pass
// halves the number of vectors, two giving one by the sum of these lanes of theirs.
template <class T, int64_t half, int64_t... k>
MIM_INLINE Vector<T> halve(Vector<T> v, Vector<T> w, std::integer_sequence<int64_t, k...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, w, (k & half ? LANES<T> + k - half : k)...) +
         __builtin_shufflevector(v, w, (k & half ? LANES<T> + k : k + half)...);
#else
  typedef typename Lanes<T>::Index Index;
  return __builtin_shuffle(v, w, (Index){(k & half ? LANES<T> + k - half : k)...}) +
         __builtin_shuffle(v, w, (Index){(k & half ? LANES<T> + k : k + half)...});
#endif
}

template <class T, int64_t half = LANES<T> / 2>
MIM_INLINE Vector<T> sum_lanes(Vector<T>* v) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < half; ++i)
    v[i] = halve<T, half>(v[i], v[i + half], std::make_integer_sequence<int64_t, LANES<T>>());
  if constexpr (half > 1) return sum_lanes<T, half / 2>(v);
  return v[0];
}

}  // namespace mim
