"""Back ends of the scan: how they are built, chosen and refused, and what they promise whatever the machine."""

import argparse
import contextlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main
from benchmarks import bench_selective_scan
from cli.doctor import examine, scan_error
from models import MODELS, create_model
from selective_scan import available_backends, backends, build, compile_cpu, cpu, selective_scan
from selective_scan.cache import cache_folder

ROOT = Path(__file__).resolve().parents[2]
needs_cpu = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ back end cannot be built here")
COMPILERS = [name for name in compile_cpu.COMPILERS if shutil.which(name)]


def python(code, cache, **environment):
    """Run a Python process in the project with a cache of its own."""
    return subprocess.Popen(
        [sys.executable, *code],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Exit code and both outputs."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def forget():
    """Let the choice be made anew, here and after the test."""
    cached = (cpu.fault, backends.choose, backends._warn_once, compile_cpu.load_cpu)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch, tmp_path, forget):
    """A machine without one, and nothing built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


def ones(batch=1, length=2):
    """The smallest inputs."""
    x = torch.ones(batch, length, 1)
    return x, x, -x[0, :1], x, x


@pytest.mark.skipif(not COMPILERS or sys.platform == "win32", reason="there is no C++ compiler")
def test_with_a_compiler_the_cpp_back_end_is_built_and_none_of_its_tests_skips():
    assert cpu.fault() is None


@needs_cpu
@pytest.mark.parametrize("batch", [1, 3, 65, 200])
def test_the_number_of_threads_does_not_change_a_bit(batch):
    tensors = bench_selective_scan.make_inputs((batch, 11, 40, 6), "cpu")
    results, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            y = bench_selective_scan.ours("cpu")(*tensors)
            results.append([y, *torch.autograd.grad(y, tensors, torch.cos(y.detach()))])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], others, strict=True))


@needs_cpu
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("shape", [(2048, 49, 128, 16), (2048, 81, 64, 64)])
def test_no_memory_larger_than_an_input_is_used(shape):
    assert bench_selective_scan.extra_memory_in_own_process(shape) < 1


@needs_cpu
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("MiM")])
def test_models_give_the_same_by_the_compiled_back_end_as_by_the_reference(name):
    patches, outputs = torch.randn(8, 20, 7, 7, generator=torch.Generator().manual_seed(0)), []
    for backend in ("reference", "auto"):
        torch.manual_seed(0)
        model = create_model(name, n_bands=20, n_classes=5, patch_size=7, scan_backend=backend).eval()
        outputs.append(model(patches))
    difference = (outputs[1] - outputs[0]).norm()
    assert 0 < difference <= 1e-4 * outputs[0].norm()  # not the same code twice


@pytest.mark.skipif(not COMPILERS, reason="there is no C++ compiler")
def test_two_processes_at_once_build_once_and_without_a_compiler_it_is_used(tmp_path):
    code = ["-m", "selective_scan.build"]
    results = [finish(process) for process in [python(code, tmp_path) for _ in range(2)]]
    assert [rc for rc, _, _ in results] == [0, 0]
    assert sum("built the C++" in err for _, _, err in results) == 1
    (library,) = tmp_path.rglob("*.so")
    assert {path.name for path in library.parent.iterdir()} == {"mim_cpu.so", "mim_cpu.so.sha256"}
    library.parent.chmod(0o555)
    rc, _, err = finish(python(code, tmp_path, PATH="", CXX="no-such-compiler"))
    library.parent.chmod(0o755)
    assert (rc, "built" in err) == (0, False)


@pytest.mark.skipif(not COMPILERS, reason="there is no C++ compiler")
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:60_000], lambda data: data[:-1] + b"x"])
def test_a_damaged_library_is_built_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compile_cpu, "_compile", lambda path: path.write_bytes(bytes(100_000)))
    library = compile_cpu.build_cpu()
    whole = library.read_bytes()
    library.write_bytes(damage(whole))
    (library.parent / "mim_cpu.so.7.tmp").write_bytes(whole)  # of a process that was killed
    assert compile_cpu.build_cpu().read_bytes() == whole
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("compiler", ["no-such-compiler", "no-such-wrapper g++"])
def test_a_compiler_named_by_cxx_that_is_not_there_is_named(forget, monkeypatch, tmp_path, compiler):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert f"the compiler that CXX names, {compiler.split()[0]}, cannot be run" in str(cpu.fault())


def test_a_compiler_that_writes_nothing_and_a_folder_that_cannot_be_written_are_said(forget, monkeypatch, tmp_path):
    monkeypatch.setattr(compile_cpu, "_compile", lambda path: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "wrote nothing" in str(cpu.fault())
    cpu.fault.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME to another folder" in str(cpu.fault())


def test_a_relative_cache_folder_is_not_used(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder() == Path.home() / ".cache" / "mim-selective-scan"


@pytest.mark.parametrize(("text", "right"), [("80", True), ("90", True), ("-5", False), ("90a", False), ("7", False)])
def test_compute_capabilities_are_checked(text, right):
    with contextlib.nullcontext() if right else pytest.raises(argparse.ArgumentTypeError, match="compute capability"):
        assert build._arch(text) == text


def test_without_a_compiler_one_line_says_so_and_the_reference_serves(no_compiler, caplog):
    for length in (2, 3):
        assert selective_scan(*ones(length=length)).shape == (1, length, 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no C++ compiler" in record.message
    assert available_backends()[-1] == "reference"
    assert "cpu" not in available_backends()


def test_an_absent_back_end_asked_for_by_name_is_an_error_with_the_usable_ones(no_compiler):
    with pytest.raises(ValueError, match=r"'cpu' cannot be used here: there is no C.* usable: auto, reference"):
        selective_scan(*ones(), backend="cpu")


def test_the_command_line_refuses_an_absent_back_end_before_anything_is_written(
    no_compiler, tiny_scene, tmp_path, capsys
):
    command = ["--dataset", "Tiny", "--folder", str(tiny_scene.folder), "--patch_size", "3", "--model", "MiM-v1"]
    command += ["--scan_backend", "cpu", "--cuda", "-1", "--visdom", "off", "--output", str(tmp_path / "runs")]
    assert main.main(command) == 2
    assert "scan_backend: the scan back end 'cpu' cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for a compiler is a shell script")
def test_a_compiler_that_fails_is_quoted(forget, monkeypatch, tmp_path):
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho 'cpu.cpp:1: error: the disk is round' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "error: the disk is round" in str(cpu.fault())
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(("version", "old"), [("2.9.1+cpu", True), ("1.13.0", True), ("2.10.0", False), ("3.0", False)])
def test_a_pytorch_before_the_stable_abi_is_named(no_compiler, monkeypatch, version, old):
    monkeypatch.setattr(torch, "__version__", version)
    assert (f"PyTorch {version} is older than 2.10" in str(cpu.fault())) == old


def test_the_doctor_shows_every_back_end_and_checks_it(tmp_path, capsys):
    assert main.main(["--doctor", "--folder", str(tmp_path), "--visdom", "http://localhost:1"]) == 0
    shown = capsys.readouterr().out
    for name in backends.BACKENDS:
        line = next(line for line in shown.split("back ends")[1].splitlines() if line.startswith(f"  {name} "))
        assert ("self-check: largest error" in line) == (name in available_backends())
    assert "The main job can run." in shown


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_the_doctor_notices_a_back_end_that_computes_wrongly(monkeypatch, tmp_path, part):
    name = available_backends()[0]
    right = getattr(backends.BACKENDS[name], part)

    def wrong(*inputs):
        results = right(*inputs)
        return results * 1.001 if part == "forward" else (results[0] * 1.01, *results[1:])

    assert scan_error(name) < 1e-6
    monkeypatch.setattr(backends.BACKENDS[name], part, wrong)
    lines, able = examine(tmp_path, "http://localhost:1")
    assert not able
    assert any("WRONG" in line for line in lines)
