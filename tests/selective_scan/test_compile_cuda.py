"""The CUDA kernels compile, once each, by nvcc and by NVRTC, and what stands in the way is said."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selective_scan import compile_cuda
from selective_scan.cache import BuildError

STATES = (4, 8, 16, 32, 64, 128)
KERNELS = [f"mim_{way}_{kind}_{n}" for way in ("forward", "backward") for kind in ("float", "double") for n in STATES]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source_of_one_size(tmp_path, monkeypatch):
    """The kernels for 16 states alone, for the sake of time."""
    lines = compile_cuda.SOURCE.read_text().splitlines(keepends=True)
    monkeypatch.setattr(compile_cuda, "SOURCE", tmp_path / "kernels.cuh")
    for header in compile_cuda.HEADERS:
        shutil.copy(header, tmp_path)
    compile_cuda.SOURCE.write_text("".join(x for x in lines if x == "KERNELS(16)\n" or not x.startswith("KERNELS(")))


def skip_without_nvrtc():
    try:
        compile_cuda._nvrtc()
    except BuildError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_nvcc_compiles_one_image_for_several_generations(cache, source_of_one_size):
    image = compile_cuda.compile_with_nvcc(["90", "80"])
    assert image.name.endswith("-sm_80-sm_90.fatbin")
    assert b"mim_backward_double_16" in image.read_bytes()
    assert {path.name for path in image.parent.iterdir()} == {image.name, f"{image.name}.sha256"}


def test_nvrtc_compiles_every_kernel(cache):
    skip_without_nvrtc()
    image = compile_cuda.compile_with_nvrtc("90").read_bytes()
    assert all(name.encode() in image for name in KERNELS)


def test_nvrtc_compiles_for_an_older_generation(cache, source_of_one_size):
    skip_without_nvrtc()
    image = compile_cuda.compile_with_nvrtc("80")
    assert image.name.endswith("-sm_80.cubin")
    assert image.read_bytes()[:4] == b"\x7fELF"


def test_a_source_that_nvrtc_refuses_is_an_error_with_its_reason(cache, tmp_path, monkeypatch):
    skip_without_nvrtc()
    (tmp_path / "wrong.cuh").write_text("int main( {")
    monkeypatch.setattr(compile_cuda, "SOURCE", tmp_path / "wrong.cuh")
    with pytest.raises(BuildError, match=r"^NVRTC failed: .*error"):
        compile_cuda.compile_with_nvrtc("90")


@pytest.fixture
def fake_nvcc(cache, tmp_path, monkeypatch):
    """A compiler that notes each run in a file and takes a while; it fails at the architecture 13."""
    if sys.platform == "win32":
        pytest.skip("a shell script stands in for nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        f"""#!/bin/sh
case "$*" in
  --version) echo "release 13.9, V13.9.1"; exit ;;
  *compute_13*) echo "nvcc fatal : Unsupported gpu architecture" >&2; exit 1 ;;
esac
sleep 0.5
echo "$*" >> {tmp_path}/runs
for last; do :; done
echo image > "$last"
"""
    )
    nvcc.chmod(0o755)
    return tmp_path / "runs"


def test_two_processes_at_once_compile_once(fake_nvcc):
    program = (
        "from selective_scan.compile_cuda import compile_with_nvcc as c; import sys; sys.stdout.write(str(c(['90'])))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        for _ in range(2)
    ]
    images = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(images) == 1
    assert Path(images.pop().decode()).read_text() == "image\n"
    assert len(fake_nvcc.read_text().splitlines()) == 1


def test_an_image_made_ahead_serves_its_generation_and_later_ones(fake_nvcc):
    with pytest.raises(BuildError, match="no image made ahead for sm_90"):
        compile_cuda.cached_by_nvcc("90")
    image = compile_cuda.compile_with_nvcc(["80", "90"])
    for arch in ("80", "86", "90", "120"):  # the last from PTX
        assert compile_cuda.cached_by_nvcc(arch) == image
    with pytest.raises(BuildError, match="no image made ahead for sm_75"):
        compile_cuda.cached_by_nvcc("75")


def test_another_source_or_another_flag_is_compiled_anew(fake_nvcc, tmp_path, monkeypatch):
    images = [compile_cuda.compile_with_nvcc(["90"])]
    monkeypatch.setattr(compile_cuda, "FLAGS", [*compile_cuda.FLAGS, "--ftz=false"])
    images.append(compile_cuda.compile_with_nvcc(["90"]))
    (tmp_path / "other.cuh").write_text("// nothing")
    monkeypatch.setattr(compile_cuda, "SOURCE", tmp_path / "other.cuh")
    images.append(compile_cuda.compile_with_nvcc(["90"]))
    assert len(set(images)) == 3


def test_a_compiler_that_fails_is_an_error_with_its_reason_and_leaves_no_image(fake_nvcc, cache):
    with pytest.raises(BuildError, match="nvcc failed: nvcc fatal : Unsupported gpu architecture"):
        compile_cuda.compile_with_nvcc(["13"])
    assert not list(cache.rglob("*.fatbin*.tmp"))
    assert not list(cache.rglob("*.fatbin"))


def test_missing_compilers_are_named(cache, monkeypatch):
    for variable in ("CUDA_HOME", "CUDA_PATH", "PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="there is no nvcc"):
        compile_cuda.compile_with_nvcc(["90"])
    monkeypatch.setattr(compile_cuda, "_nvrtc_libraries", lambda: iter(["no-such-library.so"]))
    compile_cuda._nvrtc.cache_clear()
    with pytest.raises(BuildError, match="there is no NVRTC library"):
        compile_cuda.compile_with_nvrtc("90")
