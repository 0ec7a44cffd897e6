// The selective state space recurrence and its gradient for one state of one channel at one step, written once: the C++
// source runs it over lanes of channels, the CUDA source over threads.
//
//   a_t = exp(delta_t A),  h_t = a_t h_(t-1) + delta_t u_t B_t,  y_t = sum_n C_t h_t + D u_t
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MIM_INLINE __device__ __forceinline__
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(_MSC_VER)
#define MIM_INLINE __forceinline
#else
#define MIM_INLINE inline __attribute__((always_inline))
#endif
#endif

namespace mim {

// exp without a branch or a call, so that a compiler can vectorise a loop over it; within 2 units in the last place.
MIM_INLINE float exp_lane(float x) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  return expf(x);
#else
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, which ends up in the low bits
  const float shifted = x * 1.44269504f + magic;
  const float whole = shifted - magic;
  const float r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;  // x - whole * ln 2, in two parts
  float p = 1.98756915e-4f;  // minimax polynomial of (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666654e-1f;
  p = p * r + 5.00000012e-1f;
  p = p * (r * r) + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (int32_t)((uint32_t)(bits + 127) << 23);
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
#endif
}
MIM_INLINE double exp_lane(double x) { return exp(x); }

// log(1 + z) for z in [0, 1], by the series of the area hyperbolic tangent of z / (2 + z), which is at most 1/3.
MIM_INLINE float log1p_lane(float z) {
  const float s = z / (2.0f + z), q = s * s;
  float p = 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  return 2.0f * s * (p * q + 1.0f);
}
MIM_INLINE double log1p_lane(double z) { return log1p(z); }

template <class T>
MIM_INLINE T softplus(T x) {
  return (x > 0 ? x : T(0)) + log1p_lane(exp_lane(x > 0 ? -x : x));
}

// d softplus(x) / dx, the logistic function.
template <class T>
MIM_INLINE T softplus_slope(T x) {
  const T e = exp_lane(x > 0 ? -x : x);
  return (x > 0 ? T(1) : e) / (T(1) + e);
}

template <class T>
MIM_INLINE T decay(T delta, T A) {
  return exp_lane(delta * A);
}

// h_t from h_(t-1); `input` is delta_t u_t.
template <class T>
MIM_INLINE T next_state(T h, T a, T input, T B) {
  return a * h + input * B;
}

// What one step gives back to its parts. In: the gradient that reaches h_t from later steps. Out: the one that h_t passes
// on to h_(t-1), and this state's shares in the gradients.
template <class T>
struct StepGradient {
  T to_previous, to_B, to_C, to_input, to_exponent;
};

template <class T>
MIM_INLINE StepGradient<T> step_gradient(T from_later, T grad_y, T a, T h_previous, T h, T input, T B, T C) {
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
