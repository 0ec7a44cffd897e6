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
// One instruction for each bound; GCC makes two of the ternary operator. With AVX-512 a division takes as long as a
// dozen other operations, and an estimate with one step of Newton's a quarter of it.
struct Registers {
  static MIM_INLINE Vector<float> between(Vector<float> least, Vector<float> x, Vector<float> most) {
#if defined(__AVX512F__)
    return _mm512_min_ps(most, _mm512_max_ps(least, x));
#else
    return _mm256_min_ps(most, _mm256_max_ps(least, x));
#endif
  }
  static MIM_INLINE Vector<float> reciprocal(Vector<float> x) {
#if defined(__AVX512F__)
    const Vector<float> estimate = _mm512_rcp14_ps(x);
    return estimate + estimate * (1.0f - x * estimate);
#else
    return 1.0f / x;
#endif
  }
};
#else
typedef Portable Registers;
#endif

template <>
struct Elementary<Vector<float>> : ElementaryByPolynomial<Vector<float>, Lanes<float>::Index, Registers> {};

template <>
struct Elementary<Vector<double>> {
  static constexpr double LEAST = -1000;
  template <class Function>
  static MIM_INLINE Vector<double> each(Vector<double> x, Function function) {
    for (int64_t k = 0; k < LANES<double>; ++k) x[k] = function(x[k]);
    return x;
  }
  static MIM_INLINE Vector<double> exp2(Vector<double> x) { return each(x, Elementary<double>::exp2); }
  static MIM_INLINE Vector<double> exp(Vector<double> x) { return each(x, Elementary<double>::exp); }
  static MIM_INLINE Vector<double> log1p(Vector<double> x) { return each(x, Elementary<double>::log1p); }
  static MIM_INLINE Vector<double> exp2_in_range(Vector<double> x) { return exp2(x); }
  static MIM_INLINE Vector<double> reciprocal(Vector<double> x) { return 1.0 / x; }
};

template <class T>
MIM_INLINE Vector<T> larger(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;
}

template <class T>
MIM_INLINE Vector<T> magnitude(Vector<T> x) {
  return larger<T>(x, -x);
}

template <class T>
MIM_INLINE Vector<T> square_root(Vector<T> x) {
  for (int64_t k = 0; k < LANES<T>; ++k) x[k] = std::sqrt(x[k]);
  return x;
}

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

// One vector over the lanes of as many vectors as there are lanes: lane k of the result is over those of vector k. Each
// pass halves the number of vectors, two giving one by `both` of these lanes of theirs.
template <class T, int64_t half, class Both, int64_t... k>
MIM_INLINE Vector<T> halve(Vector<T> v, Vector<T> w, Both both, std::integer_sequence<int64_t, k...>) {
#if defined(__clang__)
  return both(__builtin_shufflevector(v, w, (k & half ? LANES<T> + k - half : k)...),
              __builtin_shufflevector(v, w, (k & half ? LANES<T> + k : k + half)...));
#else
  typedef typename Lanes<T>::Index Index;
  return both(__builtin_shuffle(v, w, (Index){(k & half ? LANES<T> + k - half : k)...}),
              __builtin_shuffle(v, w, (Index){(k & half ? LANES<T> + k : k + half)...}));
#endif
}

template <class T, int64_t half = LANES<T> / 2, class Both>
MIM_INLINE Vector<T> over_lanes(Vector<T>* v, Both both) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < half; ++i)
    v[i] = halve<T, half>(v[i], v[i + half], both, std::make_integer_sequence<int64_t, LANES<T>>());
  if constexpr (half > 1) return over_lanes<T, half / 2>(v, both);
  return v[0];
}

template <class T>
MIM_INLINE Vector<T> sum_lanes(Vector<T>* v) {
  return over_lanes<T>(v, [](Vector<T> a, Vector<T> b) { return a + b; });
}

template <class T>
MIM_INLINE Vector<T> largest_lanes(Vector<T>* v) {
  return over_lanes<T>(v, larger<T>);
}

}  // namespace mim
