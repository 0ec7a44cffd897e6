"""What must not be lost, and what must not be silently wrong: results, tables, weights, checkpoints, streams."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import large, write_described

import inference.predict
import main
from reporting import results
from training import outputs, sweep
from utils import fingerprint_file

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--patch_size", "3", "--epoch", "2", "--visdom", "off", "--cuda", "-1", "--model", "CNN"]


@pytest.fixture
def scene(tmp_path):
    return write_described(tmp_path / "data" / "Field", large())


@pytest.fixture
def train(tmp_path, scene, capfd):
    """Train on the small scene; gives the exit code, what was said, and the folders of the runs."""

    def call(*arguments, output=tmp_path / "runs"):
        code = main.main([str(each) for each in ("--dataset", scene, *SMALL, "--output", output, *arguments)])
        captured = capfd.readouterr()
        return code, captured.out + captured.err, sorted(Path(output).glob("CNN/*/*"))

    return call


def rows(output):
    with (output / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The end of a run


@pytest.mark.parametrize("broken", ["append_result", "write_json"])
def test_a_run_that_ends_in_between_has_its_row_and_its_scores_after_the_same_command(
    train, tmp_path, monkeypatch, broken
):
    def full(path, content):
        if path.name in ("results.csv", "metrics.json"):
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    write = getattr(results, broken)
    monkeypatch.setattr(outputs.results, broken, full)
    code, said, _ = train("--runs", 2)
    assert code == 2 and "no space is left" in said.lower()
    monkeypatch.undo()
    code, said, folders = train("--runs", 2)
    assert code == 0 and len(folders) == 2
    assert sorted(row["folder"] for row in rows(tmp_path / "runs")) == sorted(map(str, folders))
    assert all((folder / "metrics.json").exists() for folder in folders)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("folder,model\nr\u00fcns,CNN\n".encode("cp1252"), "codec can't decode"),
        (b"folder,model\n" + b"x" * 200_000 + b",CNN\n", "field larger than"),
        (b"folder;model\nruns/a;CNN\n", "separated by semicolons"),
        (b"folder,model\nruns/a,CNN,3,4\n", "more values than columns"),
    ],
)
def test_a_table_that_cannot_be_read_is_set_aside_before_the_first_epoch(train, tmp_path, monkeypatch, content, reason):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.csv").write_bytes(content)
    seen = []
    monkeypatch.setattr(
        sweep, "run", lambda job, folder, *rest: iter([seen.append(sorted(tmp_path.glob("runs/*.csv")))])
    )
    code, said, _ = train()
    assert code == 0 and reason in said and "it is now called results-unreadable-" in said
    (aside,) = tmp_path.glob("runs/results-unreadable-*.csv")
    assert seen == [[aside]] and aside.read_bytes() == content
    monkeypatch.undo()
    assert train()[0] == 0
    assert len(rows(tmp_path / "runs")) == 1 and aside.read_bytes() == content


def test_a_table_that_excel_saved_as_utf_8_is_kept(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("\ufefffolder,model\nruns/\u00e4,CNN\n", encoding="utf-8")
    results.append_result(path, {"folder": "runs/b", "model": "MiM"})
    assert rows(tmp_path) == [{"folder": "runs/\u00e4", "model": "CNN"}, {"folder": "runs/b", "model": "MiM"}]


def test_a_row_of_the_same_run_is_replaced(tmp_path):
    for kappa in (0.1, 0.2):
        results.append_result(tmp_path / "results.csv", {"folder": tmp_path, "kappa": kappa})
    assert rows(tmp_path) == [{"folder": str(tmp_path), "kappa": "0.2"}]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are not any bytes here")
def test_an_output_folder_whose_name_is_not_utf_8_works(train, tmp_path):
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xfcns"))
    code, said, folders = train(output=output)
    assert code == 0 and len(folders) == 1, said
    assert rows(output)[0]["folder"].endswith("r\\udcfcns" + str(folders[0])[len(str(output)) :])
    assert main.main(["--report", str(folders[0])]) == 0
    assert main.main(["--compare", str(output)]) == 0


def test_too_little_space_on_the_disk_is_said_before_the_first_epoch(train, monkeypatch):
    monkeypatch.setattr(sweep.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 20}))
    code, said, folders = train()
    assert code == 2 and "a run needs about 32 MiB on the disk, and 1 are free" in said and not folders


# Numbers that are not finite


def test_weights_that_are_not_finite_at_the_end_are_an_error(train, tmp_path):
    code, said, (folder,) = train("--epoch", 1, "--lr", "1e30", "--schedule", "constant", "--batch_size", 1000)
    assert code == 2 and "not finite" in said and "lower the learning rate" in said
    assert not (folder / "metrics.json").exists() and not (tmp_path / "runs" / "results.csv").exists()


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(train, tmp_path, scene, capfd):
    _, _, (folder,) = train()
    content = torch.load(folder / "last.pt", weights_only=True)
    name = next(iter(content["state"]["weights"]))
    content["state"]["weights"][name].view(-1)[0] = torch.nan
    torch.save(content, tmp_path / "nan.pt")
    command = ["--predict", scene, "--restore", tmp_path / "nan.pt", "--output", tmp_path / "out", "--cuda", -1]
    assert main.main([str(each) for each in command]) == 2
    assert "of finite numbers" in capfd.readouterr().err


def test_a_map_of_probabilities_that_are_not_finite_is_refused(train, tmp_path, scene, monkeypatch, capfd):
    def broken(*arguments, **options):
        for first, block in map_blocks(*arguments, **options):
            block[7, 1] = np.nan
            yield first, block

    _, _, (folder,) = train()
    map_blocks = inference.predict.map_blocks
    monkeypatch.setattr(inference.predict, "map_blocks", broken)
    command = ["--predict", scene, "--restore", folder / "last.pt", "--output", tmp_path / "out", "--cuda", -1]
    assert main.main([str(each) for each in command]) == 2
    assert "probabilities are not finite for 1 pixels, the first is number 7" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("predict/*/*"))


# Checkpoints


def test_every_flipped_byte_of_a_checkpoint_is_noticed(train, tmp_path, scene, capfd):
    _, _, (folder,) = train("--dim", 8)
    content = (folder / "last.pt").read_bytes()
    with zipfile.ZipFile(folder / "last.pt") as archive:
        parts = [part for part in archive.infolist() if part.file_size]
    rng = np.random.default_rng(0)
    for part in parts:
        start = part.header_offset + 30 + len(part.filename) + len(part.extra)
        with zipfile.ZipFile(folder / "last.pt") as archive, archive.open(part) as file:
            begin = content.index(file.read(16), start)
        place = begin + int(rng.integers(part.file_size))
        (tmp_path / "flipped.pt").write_bytes(
            content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]
        )
        command = ["--predict", scene, "--restore", tmp_path / "flipped.pt", "--output", tmp_path / "out"]
        assert main.main([str(each) for each in (*command, "--cuda", -1)]) == 2, part.filename
        assert "the checksum of" in capfd.readouterr().err


def test_a_compressed_checkpoint_is_refused(train, tmp_path, scene, capfd):
    _, _, (folder,) = train()
    with (
        zipfile.ZipFile(folder / "last.pt") as old,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    command = ["--predict", scene, "--restore", tmp_path / "c.pt", "--output", tmp_path / "out", "--cuda", -1]
    assert main.main([str(each) for each in command]) == 2
    assert "c.pt is not a readable checkpoint: it is compressed" in capfd.readouterr().err


@pytest.mark.parametrize(("flags", "name"), [((), "last"), (("--val_fraction", 0.3, "--eval_weights", "best"), "best")])
def test_the_scores_name_the_checkpoint_that_they_are_of(train, flags, name):
    _, _, (folder,) = train(*flags)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["checkpoint"] == fingerprint_file(folder / f"{name}.pt")


# Streams


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_run_whose_streams_are_closed_ends_as_any_other(tmp_path, scene, closed):
    words = ["--dataset", scene, *SMALL, "--output", tmp_path / "runs"]
    command = " ".join(map(str, [sys.executable, ROOT / "main.py", *words, closed]))
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    (folder,) = (tmp_path / "runs").glob("CNN/*/*")
    assert (folder / "metrics.json").exists() and len(rows(tmp_path / "runs")) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path, scene, encoding):
    toml = Path(scene) / "scene.toml"
    text = toml.read_text(encoding="utf-8")
    first = text.split("class_names = [")[1].split(",")[0]
    toml.write_text(text.replace(first, '"\u6c34\u7a32"', 1), encoding="utf-8")
    command = [sys.executable, ROOT / "main.py", "--dataset", scene, *SMALL, "--output", tmp_path / "runs"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert b"\\u6c34\\u7a32" in result.stdout


# What is shown


FORMULAS = ["=1+1", "+49 30", "-1", "@SUM(A1)", "\tx", "'=1", "\r=1"]


@pytest.mark.parametrize("text", [*FORMULAS, "plain", "'quoted'", "a=b", ""])
def test_a_cell_that_a_spreadsheet_would_run_is_quoted_and_read_back(text):
    cell = results.as_cell(text)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r") and results.of_cell(cell) == text
    assert (cell != text) == (text in FORMULAS)
    assert results.as_cell(-1.5) == -1.5


def test_the_tables_quote_what_a_spreadsheet_would_run(train, tmp_path, scene, monkeypatch, capfd):
    toml = Path(scene) / "scene.toml"
    text = toml.read_text()
    first = text.split("class_names = [")[1].split(",")[0]
    toml.write_text(text.replace(first, '"@SUM(1)"', 1))
    monkeypatch.chdir(tmp_path)
    code, said, folders = train("--seed", 3, output=Path("=runs"))
    assert code == 0, said
    (folder,) = folders
    (row,) = rows(tmp_path / "=runs")
    assert row["folder"] == f"'{folder}" and float(row["kappa"]) <= 1
    assert main.main(["--compare", "=runs/results.csv", "--table_format", "csv"]) == 0
    lines = list(csv.reader(capfd.readouterr().out.splitlines()))
    assert not [cell for line in lines for cell in line if cell[:1] in tuple("=+@\t")]
    assert "'@SUM(1)" in {line[7] for line in lines}


def test_control_characters_do_not_reach_the_terminal(tmp_path, capfd):
    name = "a\x1b]0;x\x07\x9b31m.hdr"
    (tmp_path / name).write_text("ENVI\n")
    assert main.main(["--describe", str(tmp_path / name)]) == 2
    assert main.main(["--describe", str(tmp_path / "\x1b[2Jmissing")]) == 2
    arrays: dict[str, Any] = {"cube\x1b[31m": np.random.default_rng(0).normal(size=(9, 8, 7))}
    np.savez(tmp_path / "b.npz", **arrays)
    assert main.main(["--describe", str(tmp_path / "b.npz")]) == 0
    said = capfd.readouterr()
    assert r"a\x1b]0;x\x07" in said.err and r"cube\x1b[31m" in said.out
    assert not {*said.out, *said.err} & {"\x1b", "\x07", "\x9b"}
