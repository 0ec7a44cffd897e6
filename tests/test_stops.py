"""Stops: what a signal or a time limit leaves, what is said, and that resuming gives what no stop would have given."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import large, write_described

import engine
import main
import mapping
import stops
from cli import augment
from inference import predict as predict_module
from models.classical import Classical
from training import outputs, sweep
from training import run as run_module

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM", signal.SIGHUP: "stopped by SIGHUP"}
AUGMENTED = ["--radiation_augmentation", "--mixture_augmentation", "--dropout", "0.3", "--batch_size", "10"]
SMALL = {"CNN": ["--model", "CNN"], "MiM-v1": ["--model", "MiM-v1", "--dim", "8", "--d_inner", "8", "--d_state", "4"]}


@pytest.fixture
def listening():
    """Signals are handled as in a process of main.py."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)  # a process in the background ignores SIGINT
    stops.reset()
    stops.listen()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    stops.reset()


@pytest.fixture
def scene(tmp_path):
    """The path of the described tiny scene, with its masks."""
    return write_described(tmp_path / "data" / "Field", large())


@pytest.fixture
def call(tmp_path, scene, capfd, listening):
    """Call main.py on the scene; gives the exit code, what it said, and the newest run's folder."""

    def call(*arguments, output="runs", trains=True):
        epochs = [] if "SVM" in arguments else ["--patch_size", 3, "--epoch", 3]
        command = ["--dataset", scene, *epochs, "--cuda", -1] if trains else []
        command += ["--visdom", "off", "--output", tmp_path / output] if trains else []
        code = main.main([str(each) for each in (*command, *arguments)])
        said = capfd.readouterr()
        folders = sorted((tmp_path / output).glob("*/*/2*"), key=lambda path: path.stat().st_ctime_ns)
        return code, said.out + said.err, folders[-1] if folders else None

    return call


def kill_at(monkeypatch, owner, name, n, number):
    """Have a signal come before the n-th call of a function, counted from 0."""
    original, calls = getattr(owner, name), iter(range(10**6))

    def killed(*arguments, **options):
        if next(calls) == n:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, killed)


def last_line(said):
    return said.strip().splitlines()[-1]


def state(folder):
    return torch.load(folder / "last.pt", weights_only=True)["state"]


def records(folder):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in found]


def assert_same_run(one, two):
    weights, others = state(one)["weights"], state(two)["weights"]
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert records(one) == records(two)
    for name in ("prediction.npy", "maps.npz"):
        first, second = (np.load(folder / name) for folder in (one, two))
        pairs = [(first, second)] if name.endswith("npy") else [(first[each], second[each]) for each in first]
        assert all(np.array_equal(*pair) for pair in pairs)


# training


@pytest.mark.parametrize("n_steps", [7, 11, 12], ids=["within an epoch", "last batch", "first batch"])
@pytest.mark.parametrize("model", SMALL)
def test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits(call, monkeypatch, model, n_steps):
    flags = [*SMALL[model], *AUGMENTED]  # 6 batches an epoch
    _, _, whole = call(*flags, output="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, engine.Steps, "_step", n_steps, signal.SIGTERM)
        code, said, folder = call(*flags)
    assert code == 128 + signal.SIGTERM and "Traceback" not in said
    assert last_line(said) == f"main.py: stopped by SIGTERM; `python main.py --resume {folder}` resumes this run"
    kept = state(folder)
    assert len(kept["history"]["records"]) == n_steps // 6 and kept["unfinished"]["n_done"] == n_steps % 6 + 1
    assert not (folder / "metrics.json").exists() and not (folder / sweep.LOCK).exists()
    code, said, _ = call("--resume", folder, trains=False)
    batches = "1 batch of" if n_steps == 12 else f"{n_steps % 6 + 1} batches of"
    assert code == 0 and f"after epoch {n_steps // 6} and {batches} the next" in said
    assert_same_run(whole, folder)


def test_a_run_can_be_stopped_again_and_again(call, monkeypatch):
    flags = [*SMALL["CNN"], *AUGMENTED]
    _, _, whole = call(*flags, output="whole")
    command, folder = flags, None
    for _ in range(17):  # a step each, of 18
        with monkeypatch.context() as patch:
            kill_at(patch, engine.Steps, "_step", 0, signal.SIGHUP)
            code, _, newest = call(*command, trains=folder is None)
        folder = folder or newest
        assert code == 128 + signal.SIGHUP
        command = ["--resume", folder]
    assert call(*command, trains=False)[0] == 0
    assert_same_run(whole, folder)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_has_its_exit_code_and_says_how_to_resume(call, monkeypatch, number):
    kill_at(monkeypatch, engine.Steps, "_step", 1, number)
    code, said, folder = call(*SMALL["CNN"], "--batch_size", 16)
    assert code == 128 + number
    assert last_line(said) == f"main.py: {SIGNALS[number]}; `python main.py --resume {folder}` resumes this run"


def test_a_network_that_looks_at_the_whole_scene_stops_and_resumes(call, monkeypatch):
    flags = ["--model", "MambaHSI", "--epoch", 4]
    _, _, whole = call(*flags, output="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, engine.Steps, "descend", 2, signal.SIGTERM)
        code, _, folder = call(*flags)
    assert code == 143 and state(folder)["unfinished"]["n_done"] == 1
    assert call("--resume", folder, trains=False)[0] == 0
    assert_same_run(whole, folder)


def test_the_command_of_several_runs_goes_on_within_the_epoch(call, monkeypatch, tmp_path):
    flags = [*SMALL["CNN"], *AUGMENTED, "--runs", 2]
    call(*flags, output="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, engine.Steps, "_step", 18 + 8, signal.SIGTERM)
        code, said, folder = call(*flags)
    assert code == 143
    resumes = f"`python main.py --resume {folder}` resumes this run; the same command does all that is left"
    assert last_line(said) == f"main.py: stopped by SIGTERM; {resumes}"
    code, said, _ = call(*flags)
    assert code == 0 and "after epoch 1 and 3 batches of the next" in said and said.count("is done already") == 1
    found = [sorted((tmp_path / name / "CNN" / "Field").glob("*-seed?")) for name in ("whole", "runs")]
    for one, two in zip(*found, strict=True):
        assert_same_run(one, two)


def test_a_classifier_that_is_fitted_at_once_stops_at_once_and_is_fitted_again(call, monkeypatch):
    _, _, whole = call("--model", "SVM", output="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, Classical, "fit", 0, signal.SIGTERM)
        code, said, folder = call("--model", "SVM")
    assert code == 143 and f"--resume {folder}` resumes this run" in said and not (folder / "last.pt").exists()
    assert call("--resume", folder, trains=False)[0] == 0
    assert np.array_equal(np.load(whole / "prediction.npy"), np.load(folder / "prediction.npy"))


FIT = """
import hashlib, sys
import main, stops
from models.classical import Classical
def fit(self, *arguments):
    print("fitting", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes of C code that, like libsvm, returns at no signal
Classical.fit = fit
stops.listen()
sys.exit(stops.finish(main.main(sys.argv[1:])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_fit_in_c_code_soon_with_the_usual_message(tmp_path, scene, number):
    command = [sys.executable, "-c", FIT, "--dataset", str(scene), "--model", "SVM", "--visdom", "off", "--cuda", "-1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    restored = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "runs")], cwd=ROOT, preexec_fn=restored, **pipes
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "fitting\n"
        time.sleep(0.2)
        process.send_signal(number)
        try:
            code = process.wait(20)
        finally:
            process.kill()
        said = process.stderr.read()
    assert code == 128 + number and "Traceback" not in said
    (folder,) = (tmp_path / "runs").glob("*/*/*seed0")
    assert last_line(said) == f"main.py: {SIGNALS[number]}; `python main.py --resume {folder}` resumes this run"


def test_how_often_the_state_is_saved_changes_only_what_a_killed_run_loses(call, monkeypatch):
    saved, save = [], run_module._saver

    def saver(*arguments):
        inner = save(*arguments)
        return lambda name, content: saved.append(len(content["history"]["records"])) or inner(name, content)

    monkeypatch.setattr(run_module, "_saver", saver)
    _, _, whole = call(*SMALL["CNN"], "--epoch", 5, output="whole")
    assert saved == [1, 2, 3, 4, 5]
    saved.clear()
    _, _, rarely = call(*SMALL["CNN"], "--epoch", 5, "--save_every", 2)
    assert saved == [2, 4, 5]
    assert_same_run(whole, rarely)
    code, said, _ = call("--model", "SVM", "--save_every", 2)
    assert code == 2 and "SVM does not use --save_every" in said
    code, said, _ = call(*SMALL["CNN"], "--save_every", 0)
    assert code == 2 and "--save_every must be at least 1" in said


# after training


def test_a_stop_while_the_pictures_are_drawn_says_how_to_resume(call, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, outputs.curves, "save_confusion", 0, signal.SIGINT)
        code, said, folder = call(*SMALL["CNN"])
    assert code == 130 and f"main.py: interrupted; `python main.py --resume {folder}` resumes this run" in said
    code, said, _ = call("--resume", folder, trains=False)
    assert code == 0 and "after epoch 3" in said and (folder / "report.html").exists()


def test_a_stop_while_the_scene_is_mapped_says_how_to_resume(call, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, mapping.Grid, "spread", 0, signal.SIGTERM)
        code, said, folder = call(*SMALL["CNN"])
    assert code == 143 and f"--resume {folder}` resumes this run" in last_line(said)
    assert call("--resume", folder, trains=False)[0] == 0


def test_a_complete_run_has_its_row_whenever_it_is_stopped(call, monkeypatch, tmp_path):
    kill_at(monkeypatch, outputs.results, "append_result", 0, signal.SIGTERM)
    code, said, folder = call(*SMALL["CNN"])
    assert code == 143 and last_line(said) == f"main.py: stopped by SIGTERM; {folder} is complete"
    assert (folder / "metrics.json").exists()
    assert len((tmp_path / "runs" / "results.csv").read_text().splitlines()) == 2


# the time limit


def test_the_time_limit_stops_with_the_state_saved_and_a_code_of_its_own(call, monkeypatch):
    flags = [*SMALL["CNN"], *AUGMENTED]
    _, _, whole = call(*flags, output="whole")
    with monkeypatch.context() as patch:
        kill_at(patch, engine.Steps, "_step", 8, signal.SIGALRM)
        code, said, folder = call(*flags, "--max_minutes", 60)
    assert code == stops.TIME_LIMIT == 124
    assert "main.py: stopped at the time limit of --max_minutes; `python main.py --resume" in last_line(said)
    assert call("--resume", folder, "--max_minutes", 60, trains=False)[0] == 0
    assert_same_run(whole, folder)
    for wrong in (0, -1, "nan", "inf"):
        code, said, _ = call(*flags, "--max_minutes", wrong)
        assert code == 2 and "--max_minutes must be above 0" in said


def test_the_time_limit_comes_by_itself_and_ends_with_the_command(listening):
    stops.limit(0.1 / 60)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(60)
    assert stops.exit_code() == 124
    stops.reset()
    stops.limit(1)
    stops.reset()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


# mapping and other modes


def test_a_mapping_that_is_stopped_is_whole_and_resumes(call, monkeypatch, tmp_path):
    _, _, run = call(*SMALL["CNN"])
    np.save(tmp_path / "new.npy", np.random.default_rng(1).normal(500, 100, (40, 30, 6)).astype(np.float32))
    command = ["--predict", tmp_path / "new.npy", "--restore", run / "last.pt", "--cuda", -1, "--block_rows", 3]
    assert call(*command, "--output", tmp_path / "whole", trains=False)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "PREDICT_BATCH", 30)
        kill_at(patch, predict_module.RowReader, "__call__", 7, signal.SIGTERM)
        code, said, _ = call(*command, "--output", tmp_path / "cut", trains=False)
        assert code == 143
        assert last_line(said) == "main.py: stopped by SIGTERM; the same command resumes where it stopped"
        code, said, _ = call(*command, "--output", tmp_path / "cut", trains=False)
    assert code == 0 and "resuming" in said
    one, two = ((tmp_path / name).glob("predict/new/*/prediction.npy") for name in ("whole", "cut"))
    assert next(one).read_bytes() == next(two).read_bytes()


def test_half_an_augmented_scene_is_removed(call, monkeypatch, scene):
    command = ["--augment", 1.5, "--dataset", "Field", "--folder", scene.parent]
    with monkeypatch.context() as patch:
        kill_at(patch, augment, "write_atomically", 1, signal.SIGTERM)
        assert call(*command, trains=False)[0] == 143
    assert not (scene.parent / "Augmented_Field").exists()
    assert call(*command, trains=False)[0] == 0


# the process


@pytest.mark.parametrize("module", ["numpy", "torch"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_an_import_is_one_line(tmp_path, scene, module, number):
    code = f"import os, signal\nsignal.getsignal({int(number)}) is signal.SIG_IGN and os._exit(99)\n"
    (tmp_path / f"{module}.py").write_text(f"{code}os.kill(os.getpid(), {int(number)})\n")
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "--dataset", scene, "--output", str(tmp_path / "runs"), "--visdom", "off"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=100,
    )
    if done.returncode == 99:
        pytest.skip("this process was started with the signal ignored, and so are its children")
    assert done.returncode == 128 + number
    assert done.stderr.strip() == f"main.py: {SIGNALS[number]}"


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
import stops
stops.listen()
import engine, main
original, calls = engine.Steps._step, iter(range(100))
def killed(*arguments):
    if next(calls) == 8:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    return original(*arguments)
engine.Steps._step = killed
sys.exit(stops.finish(main.main(sys.argv[1:])))
"""


def test_a_second_ctrl_c_leaves_at_once_and_everything_is_whole(call, scene, tmp_path):
    flags = [*SMALL["CNN"], *AUGMENTED]
    _, _, whole = call(*flags, output="whole")
    (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT)))
    command = ["--dataset", scene, "--patch_size", 3, "--epoch", 3, "--cuda", -1, "--visdom", "off", *flags]
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", *map(str, command), "--output", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    (folder,) = (tmp_path / "runs").glob("*/*/2*")
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert last_line(done.stderr) == f"main.py: interrupted; `python main.py --resume {folder}` resumes this run"
    assert "unfinished" not in state(folder) and len(state(folder)["history"]["records"]) == 1
    assert call("--resume", folder, trains=False)[0] == 0
    assert_same_run(whole, folder)


def test_torchrun_repeating_a_ctrl_c_is_no_second_one(listening, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with contextlib.suppress(KeyboardInterrupt), stops.deferred():
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert stops.requested() and stops.exit_code() == 130


def test_an_ignored_signal_stays_ignored(listening):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    stops.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stops.requested()


def test_a_stop_inside_deferred_is_raised_where_it_is_checked_or_at_the_end(listening):
    done = []

    def work():
        with stops.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("first")
            with pytest.raises(KeyboardInterrupt):
                stops.check()
            done.append("second")
        done.append("third")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first", "second"]


def test_a_process_that_works_for_another_one_ignores_the_signals_and_ends_with_it(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn"), stops.leave_to_parent) as pool:
        assert pool.submit(signal.getsignal, signal.SIGTERM).result() is signal.SIG_IGN
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\nimport stops\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), stops.leave_to_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os._exit(0)\n"
    )
    with (tmp_path / "pid").open("w") as file:
        subprocess.run([sys.executable, program], stdout=file, timeout=100, check=True)
    deadline = time.monotonic() + 60
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
