// The selective scan as one writes it first for a GPU, as a peer: a thread for each (row of the batch, channel) goes
// along the sequence and keeps all in global memory; what channels add to the gradients of B and C goes by atomics.
#include "../selective_scan/csrc/recurrence.h"

using Index = long long;

// states: (batch, length, channels, N), kept for the backward pass.
extern "C" __global__ void plain_forward(const float* u, const float* delta, const float* A, const float* B,
                                         const float* C, const float* D, const float* bias, float* states, float* y,
                                         int batch, int length, int channels, int N) {
  const Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (Index)batch * channels) return;
  const int row = i / channels, channel = i % channels;
  for (int t = 0; t < length; ++t) {
    const Index at = ((Index)row * length + t) * channels + channel, step_at = ((Index)row * length + t) * N;
    const float step = mim::softplus(delta[at] + bias[channel]);
    float sum = D[channel] * u[at];
    for (int n = 0; n < N; ++n) {
      const float before = t ? states[(at - channels) * N + n] : 0;
      const float h = expf(step * A[channel * N + n]) * before + step * u[at] * B[step_at + n];
      states[at * N + n] = h;
      sum += C[step_at + n] * h;
    }
    y[at] = sum;
  }
}

// later: (batch, channels, N), zeros; grad_A, grad_B, grad_C, grad_D and grad_bias start as zeros.
extern "C" __global__ void plain_backward(const float* grad_y, const float* u, const float* delta, const float* A,
                                          const float* B, const float* C, const float* D, const float* bias,
                                          const float* states, float* later, float* grad_u, float* grad_delta,
                                          float* grad_A, float* grad_B, float* grad_C, float* grad_D, float* grad_bias,
                                          int batch, int length, int channels, int N) {
  const Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (Index)batch * channels) return;
  const int row = i / channels, channel = i % channels;
  for (int t = length - 1; t >= 0; --t) {
    const Index at = ((Index)row * length + t) * channels + channel, step_at = ((Index)row * length + t) * N;
    const float raw = delta[at] + bias[channel], step = mim::softplus(raw), gy = grad_y[at];
    float to_input = 0, to_step = 0;
    for (int n = 0; n < N; ++n) {
      const float a = expf(step * A[channel * N + n]), before = t ? states[(at - channels) * N + n] : 0;
      const float to_h = later[i * N + n] + gy * C[step_at + n], to_exponent = to_h * a * before;
      atomicAdd(grad_C + step_at + n, gy * states[at * N + n]);
      atomicAdd(grad_B + step_at + n, to_h * step * u[at]);
      atomicAdd(grad_A + channel * N + n, to_exponent * step);
      to_input += to_h * B[step_at + n];
      to_step += to_exponent * A[channel * N + n];
      later[i * N + n] = to_h * a;
    }
    const float to_raw = (to_step + to_input * u[at]) * mim::softplus_slope(raw);
    grad_u[at] = to_input * step + D[channel] * gy;
    grad_delta[at] = to_raw;
    atomicAdd(grad_D + channel, gy * u[at]);
    atomicAdd(grad_bias + channel, to_raw);
  }
}
