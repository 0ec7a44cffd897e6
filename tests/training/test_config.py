"""The settings of a run: written, read back, and repeated by the command that they give."""

import json
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import engine
from cli.arguments import parse
from training.config import RunConfig
from training.settings import PRECISIONS
from utils import InputError

LINES = (
    "--dataset Tiny",
    "--model MiM-v2 --dataset Tiny --seed 5 --patch_size 9 --scales 7 3 1 --separate_types --no-flip_augmentation",
    "--dataset Tiny --sampling_mode spatial --folds 4 --fold 1 --block_size 9 --val_fraction 0.1 --eval_weights best",
    "--dataset 'my scenes/a b' --normalize none --class_balancing --cuda -1 --train_set 'a b.mat' --test_set 'c$d.mat'",
    "--dataset Tiny --normalize none --pca 12 --fit_on train --sampling_mode random --training_sample 0.05",
)
NOT_REPEATED = {"output", "visdom"}  # where the result goes, and who watches


@pytest.mark.parametrize("line", LINES)
def test_the_settings_come_back_from_json_as_they_were(line):
    (config,) = parse(shlex.split(line)).configs
    content = json.loads(json.dumps({"config": config.as_json(), "protocol": {}}))
    assert RunConfig.from_json(content, Path("config.json")) == config


def test_json_holds_every_setting():
    (config,) = parse(["--dataset", "Tiny"]).configs
    assert set(config.as_json()) == {each.name for each in fields(RunConfig)}


@pytest.mark.parametrize("line", LINES)
def test_the_command_repeats_the_run_when_it_is_parsed_again(line):
    configs = parse([*shlex.split(line), "--runs", "3", "--output", "elsewhere"]).configs
    words = shlex.split(configs[2].command().replace("\\\n", " "))
    assert words[:2] == ["python", "main.py"]
    (again,) = parse(words[2:]).configs
    differing = {each.name for each in fields(RunConfig) if getattr(again, each.name) != getattr(configs[2], each.name)}
    assert differing == {"output"}


def test_the_command_of_several_processes_starts_with_torchrun():
    (config,) = parse(["--dataset", "Tiny", "--data_parallel"]).configs
    assert config.command(2).startswith("torchrun --nproc_per_node=2 main.py")
    assert "--data_parallel" in config.command(2)


@pytest.mark.parametrize(
    "content", [{}, [], {"config": {}}, {"config": 3}, {"arguments": {}, "options": {}}, {"seed": 3}, None]
)
def test_what_is_not_a_runs_is_refused(content):
    with pytest.raises(InputError, match=r"made/config\.json is not that of a run; give the folder of a run"):
        RunConfig.from_json(content, Path("made/config.json"))


def test_settings_of_a_later_version_are_refused_by_name():
    content = {"config": {"dataset": "Tiny", "telepathy": True}}
    with pytest.raises(InputError, match="settings that this version does not know: telepathy"):
        RunConfig.from_json(content, Path("config.json"))


def test_the_config_json_of_version_0_1_is_read():
    arguments = {
        "dataset": "Tiny",
        "weights": "best",
        "sampling_mode": "buffered",
        "runs": 3,
        "output": "out",
        "lr": 0.01,
        "model": "MiM-v1",
    }
    content = {"arguments": arguments, "options": {"scales": [3, 1]}, "seed": 4, "protocol": {}}
    config = RunConfig.from_json(content, Path("config.json"))
    scales = {"scales": (3, 1)}
    expected = RunConfig(
        dataset="Tiny", output=Path("out"), lr=0.01, seed=4, model="MiM-v1", spectral="none", model_options=scales
    )
    assert (config.eval_weights, config.sampling_mode) == ("best", "spatial")
    for each in {each.name for each in fields(RunConfig)} - {"eval_weights", "sampling_mode"}:
        assert getattr(config, each) == getattr(expected, each), each


def test_the_precisions_are_those_of_the_engine():
    assert tuple(engine.PRECISIONS) == PRECISIONS


def test_spellings_of_a_pretreatment_are_one_setting():
    (config,) = parse(["--dataset", "Tiny", "--normalize", "none", "--spectral", " SNV , derivative-MSC"]).configs
    assert config.spectral == "snv,derivative-msc"
    assert config.fits_spectra
