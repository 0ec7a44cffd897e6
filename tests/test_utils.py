"""Files that are whole or not there, fingerprints, devices and seeds."""

import os
import platform
import random
import stat
import subprocess
import sys
import threading
from typing import cast

import numpy as np
import pytest
import torch

from utils import (
    InputError,
    choose_device,
    describe_machine,
    fingerprint,
    granted_cores,
    granted_memory,
    seed_everything,
    share_cores,
    write_atomically,
)


@pytest.fixture
def switches():
    """What seed_everything switches, put back."""
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    if workspace is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


# Files


@pytest.mark.parametrize("content", [b"\x00\xff\r\n", "text, Köln\n", b""])
def test_a_file_is_written_with_exactly_its_content(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(b"older and longer than what comes")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, fails, error):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, fail)
        with pytest.raises(type(error)):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", cast(str, 42))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", "text")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path, mask, mode):
    old = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "file"
    contents = ["a" * 200_000, "b" * 200_000]
    write_atomically(path, contents[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_atomically(path, contents[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(contents)


# Fingerprints


def test_a_fingerprint_is_64_hexadecimal_digits_and_the_same_for_the_same_content():
    array = np.arange(12, dtype=np.int64).reshape(3, 4)
    digits = fingerprint(array)
    assert len(digits) == 64
    assert int(digits, 16) >= 0
    assert fingerprint(array.copy()) == digits
    assert fingerprint(np.asfortranarray(array)) == digits
    assert fingerprint(array.repeat(2, 0)[::2]) == digits


def test_a_fingerprint_depends_on_values_type_shape_order_and_number():
    array = np.arange(12, dtype=np.int64).reshape(3, 4)
    changed = array.copy()
    changed[2, 3] += 1
    others = [
        (changed,),
        (array.astype(np.int32),),
        (array.astype(np.uint64),),
        (array.reshape(4, 3),),
        (array.T,),
        (array.ravel(),),
        (array, array),
        (array, None),
        (None, array),
        (array, changed),
        (changed, array),
        (array[:2], array[2:]),
        (None,),
        (None, None),
        (),
        (np.zeros((0, 3)),),
        (np.zeros((3, 0)),),
    ]
    assert len({fingerprint(array), *(fingerprint(*arrays) for arrays in others)}) == len(others) + 1


# Devices


def test_the_cpu_and_what_is_there_can_be_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(-1) == choose_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None) == torch.device("cuda:0")
    assert choose_device(1) == torch.device("cuda:1")
    assert choose_device(-1) == torch.device("cpu")


@pytest.mark.parametrize(("n_devices", "answer"), [(0, "it has none; -1 is the CPU"), (2, r"it has 2 \(0 to 1\)")])
@pytest.mark.parametrize("number", [2, -2, 99])
def test_a_gpu_that_is_not_there_is_refused_with_what_is(monkeypatch, n_devices, answer, number):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
    with pytest.raises(InputError, match=f"cuda {number}: .*{answer}"):
        choose_device(number)


def test_the_machine_is_described_in_plain_words():
    facts = describe_machine(torch.device("cpu"))
    assert {"mim", "python", "torch", "numpy", "device", "execution", "git_commit"} <= facts.keys()
    assert all(value is None or isinstance(value, str) for value in facts.values())
    assert str(facts["device"]).startswith("cpu")


# Seeds


def test_the_same_seed_repeats_every_generator(switches):
    def draw(seed):
        seed_everything(seed)
        return random.random(), np.random.random(), float(torch.rand(()))

    first, again, other = draw(3), draw(3), draw(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert torch.are_deterministic_algorithms_enabled()


def test_large_seeds_are_taken(switches):
    seed_everything(2**32 + 5)
    seed_everything(2**63 - 1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_freed_memory_stays_with_the_process():
    code = """
import resource, torch
from utils import keep_freed_memory
keep_freed_memory()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        [torch.ones(2**19) for _ in range(8)]  # 16 MiB, 4096 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(10))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 4096


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu.max": "damaged"}, 8),
    ],
)
def test_the_cores_are_those_that_a_container_grants(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert granted_cores(tmp_path) == cores


def test_the_memory_is_that_which_a_container_grants(tmp_path):
    of_machine = granted_memory(cgroup=tmp_path)
    assert of_machine == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.max").write_text("max\n")
    assert granted_memory(cgroup=tmp_path) == of_machine
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    assert granted_memory(cgroup=tmp_path) == 2**20
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("12345\n")
    assert granted_memory(cgroup=tmp_path) == 12345


def test_threads_are_limited_to_the_cores_and_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch):
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    monkeypatch.setattr("utils.granted_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    share_cores()
    assert [os.environ[name] for name in names] == ["PASSIVE", "2"]
    for name in names:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    share_cores()
    assert [os.environ[name] for name in names] == ["ACTIVE", "5"]
