// The selective state space recurrence and its gradient for one state of one channel at one step, written once: the C++
// source runs it over vectors of channels, the CUDA source over threads. T is a number or a vector of numbers.
//
//   a_t = exp(delta_t A),  h_t = a_t h_(t-1) + delta_t u_t B_t,  y_t = sum_n C_t h_t + D u_t
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MIM_INLINE __device__ __forceinline__
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#define MIM_INLINE inline __attribute__((always_inline))
#endif

namespace mim {

constexpr double LOG2_E = 1.4426950408889634, LN_2 = 0.6931471805599453;

// log(1 + x) for x in [0, 1]: the series of the area hyperbolic tangent of x / (2 + x), which is at most 1/3.
template <class T>
MIM_INLINE T log1p_by_series(T x, T reciprocal_of_two_more) {
  const T s = x * reciprocal_of_two_more, q = s * s;
  T p = q * (1.0f / 13) + (1.0f / 11);
  p = p * q + (1.0f / 9);
  p = p * q + (1.0f / 7);
  p = p * q + (1.0f / 5);
  p = p * q + (1.0f / 3);
  return (s + s) * (p * q + 1.0f);
}

// exp2, exp and log1p of a T; log1p for arguments in [0, 1] only.
template <class T>
struct Elementary;

template <>
struct Elementary<double> {
  static MIM_INLINE double exp2(double x) { return ::exp2(x); }
  static MIM_INLINE double exp(double x) { return ::exp(x); }
  static MIM_INLINE double log1p(double x) { return ::log1p(x); }
  static MIM_INLINE double reciprocal(double x) { return 1 / x; }
};

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
template <>
struct Elementary<float> {
  static MIM_INLINE float exp2(float x) { return ::exp2f(x); }  // one instruction, as subnormal results are cut to 0
  static MIM_INLINE float exp(float x) { return ::exp2f(x * (float)LOG2_E); }
  static MIM_INLINE float log1p(float x) { return log1p_by_series(x, 1 / (x + 2)); }
  static MIM_INLINE float reciprocal(float x) { return 1 / x; }
};
#else
// x, but no less than `least` and no more than `most`; NaN stays NaN. And 1 / x.
struct Portable {
  template <class Float>
  static MIM_INLINE Float between(Float least, Float x, Float most) {
    x = least > x ? least : x;
    return most < x ? most : x;
  }
  template <class Float>
  static MIM_INLINE Float reciprocal(Float x) {
    return 1.0f / x;
  }
};

// Without a branch or a call, so that they run on whole vectors; Int is the unsigned integer type of Float's size.
template <class Float, class Int, class Machine = Portable>
struct ElementaryByPolynomial {
  static constexpr float LEAST = -125, MOST = 127;
  // Within 2 units in the last place, 1 at 0; from 2^-125 to 2^127. A NaN with an empty
  // payload, as arithmetic makes it, stays NaN.
  static MIM_INLINE Float exp2(Float x) { return exp2_in_range(Machine::between(Float{} + LEAST, x, Float{} + MOST)); }
  // The same for what lies between LEAST and MOST.
  static MIM_INLINE Float exp2_in_range(Float x) {
    const Float shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number, which ends up in the low bits
    const Float r = x - (shifted - 12582912.0f);
    Float p = r * 1.32647272e-3f + 9.67151264e-3f;  // minimax for the relative error on |r| <= 1/2 with p(0) = 1
    p = p * r + 5.55073374e-2f;
    p = p * r + 2.40222421e-1f;
    p = p * r + 6.93146978e-1f;
    p = p * r + 1.0f;
    Int whole, bits;
    std::memcpy(&whole, &shifted, sizeof whole);
    std::memcpy(&bits, &p, sizeof bits);
    bits += whole << 23;
    std::memcpy(&p, &bits, sizeof p);
    return p;
  }
  static MIM_INLINE Float exp(Float x) { return exp2(x * (float)LOG2_E); }
  // Within 2 units in the last place for numbers below 2^126, 0 from there on.
  static MIM_INLINE Float reciprocal(Float x) { return Machine::reciprocal(x); }
  static MIM_INLINE Float log1p(Float x) { return log1p_by_series(x, reciprocal(x + 2.0f)); }
};

template <>
struct Elementary<float> : ElementaryByPolynomial<float, uint32_t> {};
#endif

template <class T>
MIM_INLINE T softplus(T x) {
  const T zero{};
  return (x > zero ? x : zero) + Elementary<T>::log1p(Elementary<T>::exp(x > zero ? -x : x));
}

// d softplus(x) / dx, the logistic function.
template <class T>
MIM_INLINE T softplus_slope(T x) {
  const T zero{}, one = zero + 1.0f, e = Elementary<T>::exp(x > zero ? -x : x);
  return (x > zero ? one : e) * Elementary<T>::reciprocal(one + e);
}

// a_t; A comes in units of log 2, that is multiplied by LOG2_E.
template <class T>
MIM_INLINE T decay(T delta, T A_log2) {
  return Elementary<T>::exp2(delta * A_log2);
}

// h_t from h_(t-1); `input` is delta_t u_t, B a number even if the others are vectors.
template <class T, class Number>
MIM_INLINE T next_state(T h, T a, T input, Number B) {
  return a * h + input * B;
}

// The gradients of one step. In: the gradient that reaches h_t from later steps. Out: the one that h_t
// passes on to h_(t-1), and what this state adds to the gradients.
template <class T>
struct StepGradient {
  T to_previous, to_B, to_C, to_input, to_exponent;
};

template <class T, class Number>
MIM_INLINE StepGradient<T> step_gradient(T from_later, T grad_y, T a, T h_previous, T h, T input, Number B, Number C) {
  StepGradient<T> g;
  const T grad_h = from_later + grad_y * C;
  g.to_C = grad_y * h;
  g.to_B = grad_h * input;
  g.to_input = grad_h * B;
  g.to_previous = grad_h * a;
  g.to_exponent = g.to_previous * h_previous;  // by delta_t A, the exponent
  return g;
}

}  // namespace mim
