"""The CUDA back end without a GPU: its kernels run on the CPU, thread by thread, and so does what launches them."""

import ctypes
import shutil
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_selective_scan import gradients, make_inputs, unrolled_sum

from selective_scan import compile_cuda, cuda, driver
from selective_scan.cache import BuildError

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
KINDS = [f"{way}_{kind}" for way in ("forward", "backward") for kind in ("float", "double")]
KERNELS = [f"mim_{kind}_{states}" for kind in KINDS for states in (4, 8, 16, 32, 64, 128)]


def emulate(folder, source, kernels):
    """Compile CUDA source for the CPU."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("the CUDA emulator needs Linux and g++")
    wrapper = folder / "wrapper.cpp"
    emulator = Path(__file__).parent / "cuda_on_cpu.h"
    lines = [f'#include "{emulator}"', f'#include "{source}"', *(f"EMULATED({name})" for name in kernels)]
    wrapper.write_text("\n".join(lines))
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-w"]
    subprocess.run(["g++", *flags, str(wrapper), "-o", str(folder / "emulated.so")], check=True)
    return ctypes.CDLL(str(folder / "emulated.so"))


class Emulated:
    """Stands in for `driver.Module`."""

    def __init__(self, library, *, backwards=False):
        self.library, self.backwards, self.launched = library, backwards, []

    def launch(self, name, grid, block, arguments):
        function = self.library[f"launch_{name}"]
        function.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        fault = function((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), pointers, int(self.backwards))
        self.launched.append((name, grid))
        assert fault is None, f"{name}: {fault.decode()}"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return emulate(tmp_path_factory.mktemp("emulator"), compile_cuda.SOURCE, KERNELS)


@pytest.fixture
def emulated(library, monkeypatch):
    """The back end's kernels on the CPU, in place of a device's."""
    module = Emulated(library)
    monkeypatch.setattr(cuda, "module", lambda _: module)
    return module


def scan(inputs, weight, softplus=False):
    """The back end's y and gradients by name, as `gradients` gives them."""
    tensors = [inputs.get(name) for name in NAMES]
    slopes = cuda.backward(weight.to(tensors[0].dtype), *tensors, delta_softplus=softplus)
    return cuda.forward(*tensors, delta_softplus=softplus), {
        n: slope for n, slope in zip(NAMES, slopes, strict=True) if n in inputs
    }


def check(inputs, softplus=False):
    weight = torch.randn(inputs["u"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, slopes = scan(inputs, weight, softplus)
    expected_y, expected = gradients(partial(unrolled_sum, delta_softplus=softplus), inputs, weight)
    close = 1e-10 if y.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(y.double(), expected_y, rtol=close, atol=close)
    for name, slope in expected.items():
        largest = max(1.0, slope.abs().max().item())
        torch.testing.assert_close(slopes[name].double(), slope.double(), rtol=close, atol=close * largest, msg=name)


SHAPES = [  # batch, L, d, N
    (1, 1, 1, 1),
    (3, 8, 5, 3),
    (2, 9, 65, 8),
    (3, 21, 70, 16),
    (1, 17, 33, 17),
    (3, 7, 20, 64),
    (1, 16, 9, 100),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_give_the_unrolled_sum_and_its_gradients(emulated, shape, dtype):
    check(make_inputs(*shape, dtype=dtype), softplus=True)


@pytest.mark.parametrize("left_out", [(), ("D",), ("delta_bias",), ("D", "delta_bias")])
@pytest.mark.parametrize("softplus", [False, True])
def test_every_combination_of_options_is_taken(emulated, left_out, softplus):
    inputs = make_inputs(2, 10, 5, 16, seed=2)
    check({name: x for name, x in inputs.items() if name not in left_out}, softplus)
    tensors = [None if name in left_out else inputs[name] for name in NAMES]
    slopes = dict(
        zip(NAMES, cuda.backward(torch.ones_like(inputs["u"]), *tensors, delta_softplus=softplus), strict=True)
    )
    assert {name for name, slope in slopes.items() if slope.shape == (0,)} == set(left_out)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_more_rows_than_groups_are_all_summed(emulated, monkeypatch, groups):
    monkeypatch.setattr(cuda, "MAX_GROUPS", groups)
    check(make_inputs(7, 11, 5, 4, seed=3), softplus=True)
    assert ("mim_backward_double_4", (groups, 1, 1)) in emulated.launched


@pytest.mark.parametrize("shape", [(3, 19, 70, 16), (2, 10, 5, 4), (1, 9, 17, 64)])
def test_the_bits_do_not_depend_on_the_order_of_threads_nor_on_the_run(emulated, shape):
    inputs = make_inputs(*shape, seed=4, dtype=torch.float32)
    weight = torch.ones_like(inputs["u"])
    y, slopes = scan(inputs, weight, softplus=True)
    for emulated.backwards in (False, True):
        y_again, again = scan(inputs, weight, softplus=True)
        assert torch.equal(y, y_again)
        assert all(torch.equal(slopes[name], again[name]) for name in NAMES)


def test_a_row_of_the_batch_has_the_same_bits_alone(emulated):
    inputs = make_inputs(3, 12, 6, 16, seed=5, dtype=torch.float32)
    weight = torch.ones_like(inputs["u"])
    y, slopes = scan(inputs, weight)
    for i in range(3):
        y_alone, alone = scan(
            {name: x[i : i + 1] if x.ndim == 3 else x for name, x in inputs.items()}, weight[i : i + 1]
        )
        assert torch.equal(y_alone[0], y[i])
        assert all(torch.equal(alone[name][0], slopes[name][i]) for name in ("u", "delta", "B", "C"))


def test_a_number_that_is_none_stays_in_its_row_and_channel(emulated):
    inputs = make_inputs(2, 10, 5, 3, seed=6)
    inputs["u"][1, 4, 2] = torch.nan
    y, slopes = scan(inputs, torch.ones_like(inputs["u"]))
    wrong = ~y.isfinite()
    assert wrong[1, 4:, 2].all()
    assert wrong.sum() == 6
    assert slopes["delta"][0].isfinite().all()


def test_an_empty_batch_launches_nothing_and_has_zero_gradients(emulated):
    inputs = make_inputs(0, 3, 2, 2)
    y, slopes = scan(inputs, inputs["u"])
    assert y.shape == (0, 3, 2)
    assert {name: slope.shape for name, slope in slopes.items()} == {name: x.shape for name, x in inputs.items()}
    assert not any(slopes[name].any() for name in NAMES)
    assert emulated.launched == []


def test_more_states_than_the_kernels_take_are_an_error_that_names_the_limit(emulated):
    inputs = make_inputs(1, 2, 2, cuda.MAX_STATES + 1)
    with pytest.raises(ValueError, match="up to 128 states, not 129"):
        cuda.forward(*inputs.values(), delta_softplus=False)
    with pytest.raises(ValueError, match="up to 128 states, not 129"):
        cuda.backward(inputs["u"], *inputs.values(), delta_softplus=False)


BROKEN = """
extern "C" __global__ void missed_barrier(float*) { if (threadIdx.x < 32) __syncthreads(); }
extern "C" __global__ void missed_shuffle(float*) { if (threadIdx.x % 2) __shfl_xor_sync(~0u, 1.0f, 1); }
extern "C" __global__ void two_shuffles(float*) { __shfl_xor_sync(~0u, 1.0f, threadIdx.x % 2 ? 1 : 2); }
extern "C" __global__ void unwritten(float* out) {
  __shared__ float values[64];
  if (!out) values[0] = 1;  // or the compiler takes them for constants
  out[threadIdx.x] = values[threadIdx.x];
}
"""
# Stands in for the CUDA driver: its one context is 5, its module 6, and its functions are the emulator's.
DRIVER = """
#include <dlfcn.h>
#define CALL extern "C" __attribute__((visibility("default"))) int
static void *home, *current;
CALL cuInit(unsigned) { return 0; }
CALL cuGetErrorString(int, const char** text) { *text = "no such thing"; return 0; }
CALL cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal == 0 ? 0 : 101; }
CALL cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)5; return 0; }
CALL cuCtxPushCurrent_v2(void* context) { current = context; return 0; }
CALL cuCtxPopCurrent_v2(void** context) { *context = current; current = nullptr; return 0; }
CALL cuModuleLoadData(void** module, const char* image) {
  *module = (void*)6;
  return current == (void*)5 && !std::strcmp(image, "image") ? 0 : 200;
}
CALL cuModuleGetFunction(void** function, void* module, const char* name) {
  Dl_info self;
  dladdr((void*)&cuInit, &self);
  *function = dlsym(dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD), ("launch_" + std::string(name)).c_str());
  return current == (void*)5 && module == (void*)6 && *function ? 0 : 500;
}
CALL cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                    unsigned shared, void* stream, void** arguments, void** extra) {
  const unsigned grid[] = {x, y, z}, block[] = {bx, by, bz};
  const auto launch = (const char* (*)(const unsigned*, const unsigned*, void**, int))function;
  if (current != (void*)5 || shared || stream != (void*)7 || extra) return 1;
  return launch(grid, block, arguments, 0) ? 719 : 0;
}
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken.cu").write_text(BROKEN)
    return emulate(folder, folder / "broken.cu", ["missed_barrier", "missed_shuffle", "two_shuffles", "unwritten"])


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        ("missed_barrier", "threads wait for others"),
        ("missed_shuffle", "threads wait for others"),
        ("two_shuffles", "lanes of a warp are at different shuffles"),
    ],
)
def test_the_emulator_reports_what_would_hang_or_be_undefined(broken, kernel, fault):
    with pytest.raises(AssertionError, match=fault):
        Emulated(broken).launch(kernel, (1, 1, 1), (64, 1, 1), [ctypes.c_void_p()])


def test_the_emulator_starts_every_block_with_shared_memory_that_is_no_number(broken):
    out = torch.zeros(64)
    Emulated(broken).launch("unwritten", (1, 1, 1), (64, 1, 1), [ctypes.c_void_p(out.data_ptr())])
    assert out.isnan().all()


@pytest.fixture
def fake_driver(tmp_path, monkeypatch):
    """The driver's calls answered by the emulator, which starts its kernels on the stream 7."""
    (tmp_path / "kernels.cu").write_text(f'#include "{compile_cuda.SOURCE}"\n{DRIVER}')
    emulate(tmp_path, tmp_path / "kernels.cu", KERNELS[2:3])
    (tmp_path / "image").write_bytes(b"image")
    monkeypatch.setattr(driver, "LIBRARY", str(tmp_path / "emulated.so"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=7))
    driver._driver.cache_clear()
    yield tmp_path / "image"
    driver._driver.cache_clear()


def test_kernels_are_launched_through_the_driver_in_the_devices_context(fake_driver, monkeypatch):
    module = driver.Module(fake_driver, torch.device("cuda", 0))
    monkeypatch.setattr(cuda, "module", lambda _: module)
    inputs = make_inputs(2, 9, 5, 16, dtype=torch.float32)
    y = cuda.forward(*inputs.values(), delta_softplus=True)
    torch.testing.assert_close(y.double(), unrolled_sum(**inputs, delta_softplus=True), rtol=1e-5, atol=1e-5)
    with pytest.raises(driver.DriverError, match="cuModuleGetFunction failed: no such thing"):
        module.launch("no_kernel", (1, 1, 1), (32, 1, 1), [])
    with pytest.raises(driver.DriverError, match=r"cuDeviceGet failed: no such thing \(101\)"):
        driver.Module(fake_driver, torch.device("cuda", 1))


def test_a_missing_driver_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(driver, "LIBRARY", "no-such-library.so")
    driver._driver.cache_clear()
    with pytest.raises(driver.DriverError, match="the CUDA driver cannot be loaded"):
        driver._call("cuInit", 0)


def test_the_next_image_is_taken_where_one_cannot_be_made_or_loaded(monkeypatch):
    asked = count()

    def refuse(*_):
        raise (BuildError, driver.DriverError)[next(asked) % 2]("refused")

    monkeypatch.setattr(cuda, "_arch", lambda _: "90")
    for name in ("cached_by_nvcc", "compile_with_nvcc"):
        monkeypatch.setattr(cuda, name, refuse)
    monkeypatch.setattr(cuda, "compile_with_nvrtc", lambda arch: f"image for {arch}")
    monkeypatch.setattr(cuda, "Module", lambda image, device: image)
    assert cuda.module.__wrapped__("a device") == "image for 90"
    monkeypatch.setattr(cuda, "compile_with_nvrtc", refuse)
    with pytest.raises(BuildError, match=r"^refused; refused; refused$"):
        cuda.module.__wrapped__("a device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_a_gpu_is_told_why_the_back_end_cannot_be_used():
    assert cuda.fault() in ("this PyTorch is built without CUDA", "there is no CUDA device")
