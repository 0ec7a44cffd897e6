"""One run by several processes against the same run by one: losses, weights, BatchNorm's sums, and going on.

Started by torchrun this file is the processes' program: what each has found goes to a file of its rank.
"""

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import torchrun
from tiny import large, write_described
from torch import nn

import engine
import main
import stops
from cli.arguments import parse
from datasets import load_scene
from models import create_model
from patches import Augmentation, PatchLoader, labelled_pixels
from reporting.live.monitor import Monitor
from training.data_parallel import BatchNorm, CommonStop, DataParallel, process_group
from training.distributed import Ranks
from training.prepare import prepare
from utils import InputError, seed_everything

WORLD = 3
N_BANDS, N_CLASSES, PATCH = 5, 3, 5
EPOCHS = 4
CASES = {  # network, its parts, weights of the classes, label smoothing
    "CNN": ("CNN", {"dim": 8, "dropout": 0.0}, None, 0.1),
    "CNN, weights": ("CNN", {"dim": 8, "dropout": 0.0}, (0.3, 2.5, 1.1), 0.0),
    "MiM, weights": (
        "MiM-v1",
        {"dim": 8, "d_inner": 8, "d_state": 4, "dropout": 0.0, "stem": "full"},
        (0.3, 2.5, 1.1),
        0.1,
    ),
}


def make_model(name, options):
    torch.manual_seed(0)
    return create_model(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=PATCH, **options)


def make_loader(value=None):
    """50 pixels in batches of 17, 17 and 16; with a value one pixel of the scene has it."""
    rng = np.random.default_rng(0)
    gt = np.repeat([1, 2, 3, 3, 3], 2)[None].repeat(5, 0)
    cube = torch.tensor(gt[..., None] + rng.standard_normal((5, 10, N_BANDS)), dtype=torch.float32)
    if value is not None:
        cube[0, 0] = value
    sizes = {"patch_size": PATCH, "batch_size": 17, "generator": torch.Generator().manual_seed(1)}
    return PatchLoader(cube.permute(2, 0, 1), *labelled_pixels(torch.tensor(gt)), **sizes, augment=Augmentation())


def fit(model, config, parallel=None, value=None, **more):
    steps = engine.Steps(model, loader := make_loader(value), config, parallel)
    return engine.train(model, loader, None, config, Monitor(), steps=steps, **more)


def train_case(case, make_parallel=lambda _: None):
    """Records of the epochs, and the state_dict after them."""
    name, options, weights, smoothing = CASES[case]
    model = make_model(name, options)
    config = engine.TrainConfig(EPOCHS, lr=3e-3, class_weights=weights, label_smoothing=smoothing)
    return fit(model, config, make_parallel(model)).records, model.state_dict()


def cut_and_whole(make_parallel):
    """A network with dropout, trained in one go and with an end and a new beginning after two epochs."""
    states, results = [], []
    config = engine.TrainConfig(EPOCHS, lr=3e-3)
    for turn in ("whole", "cut"):
        torch.manual_seed(77)  # what the random state was before must not matter
        model = make_model("CNN", {"dim": 8, "dropout": 0.4})
        parallel = make_parallel(model)
        torch.manual_seed(len(turn))
        keep = None if turn == "cut" else lambda _, state: states.append(json_of(state))
        history = fit(model, config, parallel, save=keep, state=states[1] if turn == "cut" else None)
        results.append(([record["loss"] for record in history.records], model.state_dict()))
    return results


def json_of(state):
    """A copy of the state, as a file would hold it."""
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def stopped_and_whole(make_parallel, ranks, folder):
    """A network with dropout, trained in one go, and stopped within the second epoch because the last rank is asked."""
    config, results, saved = engine.TrainConfig(EPOCHS, lr=3e-3), {}, []
    for turn in ("whole", "stopped", "resumed"):
        torch.manual_seed(77)
        model = make_model("CNN", {"dim": 8, "dropout": 0.4})
        parallel, more = make_parallel(model), {}
        torch.manual_seed(len(turn))
        if turn == "stopped":
            common, calls = CommonStop(ranks, torch.device("cpu")), iter(range(1, 99))

            def stop(common=common, calls=calls):
                if next(calls) == 4 and ranks.rank == WORLD - 1:
                    stops._stop.signal = signal.SIGTERM
                return common()

            more = {"stop": stop, "save": lambda _, state: saved.append(state)}
        elif turn == "resumed":
            more = {"state": torch.load(folder / "stopped.state", weights_only=True)}
        try:
            history = fit(model, config, parallel, **more)
            records = [{name: value for name, value in r.items() if name != "seconds"} for r in history.records]
            results[turn] = records, model.state_dict()
        except KeyboardInterrupt:
            if ranks.first:
                torch.save(saved[-1], folder / "stopped.state")
            ranks.wait_for_all("stopped")
            stops.reset()
    return results | {"n_done": torch.load(folder / "stopped.state", weights_only=True)["unfinished"]["n_done"]}


def norm_inputs():
    """What goes into a BatchNorm, far from 0, and the gradient of what comes out."""
    random = torch.Generator().manual_seed(3)
    x, gradient = (torch.randn(2 * WORLD + 1, 4, 3, 3, generator=random) for _ in range(2))
    return 50 + x, gradient


def norm(x, gradient, kind):
    """Output, gradients, and statistics of a BatchNorm in training; then its output in evaluation."""
    layer = nn.BatchNorm2d(4)
    layer.__class__ = kind
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1, 2, -1]))
        layer.bias.copy_(torch.arange(4))
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(gradient)
    found = {"y": y.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    found |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return found | {"evaluated": layer.eval()(x).detach(), "keys": list(layer.state_dict())}


def work(folder):
    """What every process does."""
    ranks = Ranks.of_environment()
    torch.use_deterministic_algorithms(True)
    with process_group(ranks, torch.device("cpu")):

        def make_parallel(model):
            return DataParallel(model, 5, ranks)

        found: dict[str, Any] = {case: train_case(case, make_parallel) for case in CASES}
        found["whole"], found["cut"] = cut_and_whole(make_parallel)
        found["stop"] = stopped_and_whole(make_parallel, ranks, folder)
        x, gradient = norm_inputs()
        x, gradient = (each.tensor_split(WORLD)[ranks.rank] for each in (x, gradient))
        found["norm"] = norm(x, gradient, BatchNorm)
        model = make_model("CNN", {"dim": 8})
        try:
            fit(model, engine.TrainConfig(2), make_parallel(model), value=np.nan)
        except FloatingPointError as error:
            found["error"] = str(error)
        torch.save(found, folder / f"{ranks.rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of three processes found, by its rank."""
    folder = tmp_path_factory.mktemp("ranks")
    said = torchrun(WORLD, folder, program=Path(__file__))
    assert len(list(folder.glob("*.pt"))) == WORLD, said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def assert_same_bits(first, second):
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", CASES)
def test_the_losses_and_weights_are_those_of_one_process_to_rounding(found, case):
    records, weights = train_case(case)
    for rank in range(WORLD):
        theirs, their_weights = found[rank][case]
        for ours, other in zip(records, theirs, strict=True):
            for name in ("loss", "scale_losses", "lr"):
                np.testing.assert_allclose(other[name], ours[name], rtol=1e-4, err_msg=f"{name}, {ours['epoch']}")
            assert other["train_accuracy"] == pytest.approx(ours["train_accuracy"], abs=1 / 50)
        assert list(their_weights) == list(weights)
        for name, value in weights.items():
            # AdamW divides by a gradient's size: where that is rounding alone, a step goes either way
            torch.testing.assert_close(their_weights[name], value, rtol=2e-3, atol=2e-3, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("case", CASES)
def test_every_rank_has_the_same_weights_and_the_same_record(found, case):
    plain = [{k: v for k, v in record.items() if k != "seconds"} for record in found[0][case][0]]
    for rank in range(1, WORLD):
        assert [{k: v for k, v in record.items() if k != "seconds"} for record in found[rank][case][0]] == plain
        assert_same_bits(found[rank][case][1], found[0][case][1])


def test_batch_norm_is_that_of_the_whole_batch(found):
    x, gradient = norm_inputs()
    expected = norm(x, gradient, nn.BatchNorm2d)
    norms = [each["norm"] for each in found]
    for name in ("y", "x", "evaluated"):
        torch.testing.assert_close(torch.cat([n[name] for n in norms]), expected[name], rtol=1e-4, atol=1e-4, msg=name)
    for name in ("weight", "bias"):  # every rank has the gradient of its part
        torch.testing.assert_close(sum(n[name] for n in norms), expected[name], rtol=1e-4, atol=1e-4, msg=name)
    for each in norms:
        assert each["keys"] == expected["keys"]
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(each[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_a_run_that_goes_on_repeats_to_the_bit_with_dropout(found):
    for each in found:
        assert each["whole"][0] == each["cut"][0]
        assert_same_bits(each["whole"][1], each["cut"][1])


def test_all_ranks_stop_after_the_same_step_and_resume_within_the_epoch_to_the_bit(found):
    for each in found:
        assert each["stop"]["n_done"] in (2, 3)  # asked after the first step, of three
        assert each["stop"]["resumed"][0] == each["stop"]["whole"][0]
        assert_same_bits(each["stop"]["resumed"][1], each["stop"]["whole"][1])


def test_a_loss_that_is_not_finite_is_an_error_on_every_rank(found):
    assert len({each["error"] for each in found}) == 1 and "not finite in epoch 1" in found[0]["error"]


def test_ranks_drop_out_differently_and_epochs_too():
    parallel = DataParallel.__new__(DataParallel)
    drawn = set()
    for each, seed, epoch in ((0, 5, 1), (1, 5, 1), (0, 5, 2), (0, 6, 1)):
        parallel.seed, parallel.ranks = seed, Ranks(each, 2)
        parallel.begin_epoch(epoch)
        drawn.add(float(torch.rand(1)))
    assert len(drawn) == 4


# the command line


SMALL = ["--patch_size", "3", "--visdom", "off", "--cuda", "-1"]


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """The path of the described tiny scene, with its masks."""
    return write_described(tmp_path_factory.mktemp("data") / "Field", large())


def folders(output):
    """Folders of the runs by seed."""
    return {
        json.loads((p / "config.json").read_text())["config"]["seed"]: p for p in output.glob("*/*/*") if p.is_dir()
    }


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder):
    return torch.load(folder / "last.pt", weights_only=True)["state"]["weights"]


@pytest.fixture(scope="module")
def runs(field, tmp_path_factory):
    """The command of two runs by two processes, the folder with them, and what the processes said."""
    output = tmp_path_factory.mktemp("runs")
    command = ["--dataset", field, *SMALL, "--model", "CNN", "--epoch", 14, "--runs", 2, "--dropout", 0.3]
    command += [
        "--val_fraction",
        0.3,
        "--weights",
        "best",
        "--class_balancing",
        "--lr",
        0.02,
        "--data_parallel",
        "--output",
        output,
    ]
    return command, output, torchrun(2, *command)


def test_the_first_process_alone_writes_and_says_what_came_out(runs, tmp_path):
    _, output, said = runs
    by_seed = folders(output)
    assert set(by_seed) == {0, 1}, said
    assert len((output / "results.csv").read_text().splitlines()) == 3
    assert said.count("over 2 runs") == 1 and "[rank 1]" not in said
    for folder in by_seed.values():
        protocol = json.loads((folder / "metrics.json").read_text())["protocol"]
        assert protocol["processes"] == 2
        assert "torchrun --nproc_per_node=2 main.py" in (folder / "report.html").read_text()
        assert len(losses(folder)) == 14
    code = main.main(["--predict", "Field", "--folder", str(folders_home(runs)), "--restore",
                      str(by_seed[0] / "best.pt"), "--output", str(tmp_path), "--cuda", "-1"])  # fmt: skip
    assert code == 0


def folders_home(runs):
    return Path(runs[0][1]).parent


def test_what_was_cut_off_goes_on_to_the_same_bits_and_what_is_done_is_left(runs):
    command, output, _ = runs
    by_seed = folders(output)
    before = {seed: (losses(folder), weights_of(folder)) for seed, folder in by_seed.items()}
    cut_off(by_seed[1])
    said = torchrun(2, *command)
    assert folders(output) == by_seed, said
    assert said.count("is done already") == 1 and said.count("resuming ") == 1
    for seed, folder in by_seed.items():
        assert losses(folder) == before[seed][0]
        assert_same_bits(weights_of(folder), before[seed][1])


def cut_off(folder):
    """Leave a run as it was when its best epoch had ended."""
    shutil.copy(folder / "best.pt", folder / "last.pt")
    best = torch.load(folder / "best.pt", weights_only=True)["state"]["history"]
    assert 1 <= len(best["records"]) < 14
    (folder / "metrics.json").unlink()


def test_resuming_takes_as_many_processes_and_gives_the_same_bits(runs, tmp_path, capfd):
    _, output, _ = runs
    folder = folders(output)[0]
    expected = losses(folder), weights_of(folder)
    cut = tmp_path / "runs" / "CNN" / "Field" / folder.name
    shutil.copytree(folder, cut)
    cut_off(cut)
    assert main.main(["--resume", str(cut)]) == 2
    told = capfd.readouterr().err
    assert f"split over 2 processes; resume it with torchrun --nproc_per_node=2 main.py --resume {cut}" in told
    said = torchrun(2, "--resume", cut)
    assert (cut / "metrics.json").exists(), said
    assert losses(cut) == expected[0]
    assert_same_bits(weights_of(cut), expected[1])


def test_one_process_of_torchrun_is_one_process(field, tmp_path, monkeypatch, capfd):
    command = ["--dataset", field, *SMALL, "--model", "CNN", "--epoch", 1, "--data_parallel", "--output", tmp_path]
    monkeypatch.setattr(Ranks, "alone", False)
    assert main.main([str(each) for each in command]) == 0
    (folder,) = folders(tmp_path).values()
    config = json.loads((folder / "config.json").read_text())
    assert config["protocol"]["processes"] == 1 and not config["config"]["data_parallel"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "start it with `torchrun --nproc_per_node=N main.py`"),
        (["--audit"], "--audit does not use --cuda, --data_parallel"),
        (["--doctor"], "--doctor does not use"),
    ],
)
def test_without_torchrun_or_training_it_is_refused(field, tmp_path, capfd, arguments, told):
    command = ["--dataset", str(field), *SMALL, "--data_parallel", "--output", str(tmp_path / "out"), *arguments]
    assert main.main(command) == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_batch_smaller_than_the_processes_is_refused(field):
    (config,) = parse(["--dataset", str(field), *SMALL, "--model", "CNN", "--batch_size", "4"]).configs
    scene, cpu = load_scene(str(field), field), torch.device("cpu")
    prepare(config, scene, cpu, ranks=Ranks(0, 3))
    for n in (4, 5):  # 87 training pixels are 22 batches, of which some have three
        with pytest.raises(InputError, match=f"fewer patches than there are processes to share it, {n}"):
            prepare(config, scene, cpu, ranks=Ranks(0, n))


def test_a_gpu_that_is_not_the_process_s_own_is_refused():
    with (
        pytest.raises(InputError, match="not cuda:0 for process 1; leave --cuda out"),
        process_group(Ranks(1, 2, local_rank=1), torch.device("cuda:0")),
    ):
        pass


if __name__ == "__main__":
    seed_everything(0)
    work(Path(sys.argv[1]))
