// Runs CUDA kernels on the CPU, as far as the scan's source needs it: threads of a block are fibers of one OS thread,
// which change over at barriers and shuffles only. So a run is exact and repeatable, and what a GPU would answer with a
// hang or with chance shows: a barrier or shuffle that some threads miss is an error, shared memory starts as NaN, and
// threads run in either order, each warp as far ahead of the others as it gets.
#pragma once

#include <link.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __CUDACC__  // after the standard headers, which look at it
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// So that one stretch of memory, that of the library's thread-locals, is the shared memory of all kernels.
#define __shared__ static thread_local

namespace emulator {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 17);
  Dim thread;
  bool done;
  long barriers, shuffles;  // passed or waited at
  int mask;                 // of the shuffle that it is at
  double value;             // that it gives there
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline Fiber* self;
inline int threads;
inline void (*body)();

inline void wait() { swapcontext(&self->context, &scheduler); }

inline std::pair<Fiber*, Fiber*> warp() {
  Fiber* first = &fibers[self->thread.x / 32 * 32];
  return {first, first + 32};
}

template <class Arrived>
void wait_until_all(Fiber* first, Fiber* last, Arrived arrived) {
  while (!std::all_of(first, last, arrived)) wait();
}

}  // namespace emulator

inline emulator::Dim threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() {
  using namespace emulator;
  const long mine = ++self->barriers;
  wait_until_all(&fibers[0], &fibers[threads], [&](Fiber& other) { return other.barriers >= mine; });
}

template <class T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  using namespace emulator;
  if (lanes != ~0u) throw std::runtime_error("a shuffle of part of a warp");
  const auto [first, last] = warp();
  self->value = value;
  self->mask = mask;
  const long mine = ++self->shuffles;
  wait_until_all(first, last, [&](Fiber& other) { return other.shuffles >= mine; });
  const Fiber& other = first[(self->thread.x % 32) ^ mask];
  if (other.mask != mask) throw std::runtime_error("lanes of a warp are at different shuffles");
  const T result = static_cast<T>(other.value);
  const long left = ++self->shuffles;  // nobody gives a new value before all have read
  wait_until_all(first, last, [&](Fiber& other) { return other.shuffles >= left; });
  return result;
}

namespace emulator {

// Fills the shared memory of all kernels with NaN.
inline void poison() {
  static thread_local volatile char anchor = 0;  // a use of the library's thread-locals makes them
  const volatile char* inside = &anchor;
  anchor = 1;
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* inside) {
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          char* start = static_cast<char*>(library->dlpi_tls_data);
          const size_t size = library->dlpi_phdr[i].p_memsz;
          if (library->dlpi_phdr[i].p_type == PT_TLS && inside >= start && inside < start + size)
            std::memset(start, 0xff, size);
        }
        return 0;
      },
      const_cast<char*>(inside));
}

inline std::string fault;

inline void enter() {
  try {
    body();
  } catch (const std::runtime_error& error) {
    fault = error.what();
  }
  self->done = true;
  wait();
}

// Runs each lane of a warp up to where it waits; whether one got anywhere.
template <class Order>
bool run_warp(int first, Order in_order) {
  bool moved = false;
  for (int i = 0; i < 32 && fault.empty(); ++i) {
    Fiber& fiber = fibers[first + in_order(i, 32)];
    if (fiber.done) continue;
    const auto before = std::pair(fiber.barriers, fiber.shuffles);
    self = &fiber;
    threadIdx = fiber.thread;
    swapcontext(&scheduler, &fiber.context);
    moved = moved || fiber.done || before != std::pair(fiber.barriers, fiber.shuffles);
  }
  return moved && fault.empty();
}

inline void run_block(bool reversed) {
  poison();
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.thread = {unsigned(i), 0, 0};
    fiber.done = false;
    fiber.barriers = fiber.shuffles = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  const auto in_order = [&](int i, int count) { return reversed ? count - 1 - i : i; };
  for (bool moved = true; moved;) {
    moved = false;
    for (int i = 0; i < threads / 32; ++i)
      while (run_warp(in_order(i, threads / 32) * 32, in_order)) moved = true;  // each as far ahead as it gets
    if (!fault.empty()) return;
  }
  const auto done = [](Fiber& fiber) { return fiber.done; };
  if (!std::all_of(&fibers[0], &fibers[threads], done)) fault = "threads wait for others at a barrier or a shuffle";
  for (int i = 0; i < threads && fault.empty(); ++i)
    if (fibers[i].barriers != fibers[0].barriers) fault = "threads passed different numbers of barriers";
}

// The arguments of the launch in flight, by the kernel's own types.
template <auto KERNEL>
struct Launch;
template <class... Parameters, void (*KERNEL)(Parameters...)>
struct Launch<KERNEL> {
  static inline std::tuple<Parameters...>* arguments;
  template <size_t... I>
  static std::tuple<Parameters...> unpack(void** pointers, std::index_sequence<I...>) {
    return {*static_cast<Parameters*>(pointers[I])...};
  }
  static const char* run(const unsigned* grid, const unsigned* block, void** pointers, int reversed) {
    auto unpacked = unpack(pointers, std::index_sequence_for<Parameters...>());
    arguments = &unpacked;
    body = [] { std::apply(KERNEL, *arguments); };
    fault.clear();
    threads = block[0];
    if (threads % 32 || block[1] * block[2] != 1) return "a block is whole warps in a row";
    fibers.resize(std::max<size_t>(fibers.size(), threads));
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
      for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid[0] && fault.empty(); ++blockIdx.x) run_block(reversed);
    return fault.empty() ? nullptr : fault.c_str();
  }
};

}  // namespace emulator

// extern "C" launch_NAME(grid, block, arguments, reversed): what is wrong, or null.
#define EMULATED(NAME)                                                                                     \
  extern "C" __attribute__((visibility("default")))                                                        \
  const char* launch_##NAME(const unsigned* grid, const unsigned* block, void** arguments, int reversed) { \
    return emulator::Launch<&NAME>::run(grid, block, arguments, reversed);                                 \
  }
