"""Mapping block by block: the same result whatever the blocks, in flat memory, and with bands, gaps and places kept."""

import errno
import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import main
import mapping
from inference import partial_map
from inference import predict as predict_module
from inference.bands import match_bands
from mapping import Grid, map_blocks, map_scene
from models import create_model
from scenes.rasters import Raster, open_raster, write_bands
from training import run as run_module
from utils import InputError

N_BANDS, N_CLASSES, PATCH = 6, 4, 5
CPU = torch.device("cpu")


def make_model(name="CNN", patch_size=PATCH):
    torch.manual_seed(0)
    return create_model(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=patch_size)


def make_cube(height=23, width=17, seed=0):
    return np.random.default_rng(seed).standard_normal((height, width, N_BANDS)).astype(np.float32)


def blocks(model, cube, grid, **options):
    """All blocks put together, and the number of them."""
    pieces = list(map_blocks(model, lambda start, stop: cube[start:stop], grid, CPU, **options))
    starts = [first for first, _ in pieces]
    assert starts == sorted(set(starts))
    return np.concatenate([piece for _, piece in pieces]), len(pieces)


@pytest.mark.parametrize("name", ["CNN", "MiM-v1"])
def test_the_blocks_do_not_change_a_bit(name, monkeypatch):
    monkeypatch.setattr(mapping, "PREDICT_BATCH", 16)
    model, cube = make_model(name), make_cube()
    grid = Grid.of(cube.shape[:2], PATCH)
    whole, one = blocks(model, cube, grid)
    assert (len(whole), one) == (len(grid), 1)
    for rows in (1, 2, 7):
        parts, many = blocks(model, cube, grid, block_rows=rows)
        assert many > 3
        assert np.array_equal(parts, whole)
    start = 5 * 16
    assert np.array_equal(blocks(model, cube, grid, block_rows=3, start=start)[0], whole[start:])


@pytest.mark.parametrize("border", ["mirror", "skip"])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("name", ["CNN", "MiM-v3"])
def test_blocks_agree_with_the_whole_scene_at_once(name, stride, border):
    model, cube = make_model(name), make_cube()
    grid = Grid.of(cube.shape[:2], PATCH, stride=stride, border=border)
    shares, _ = blocks(model, cube, grid, block_rows=4)
    labels = grid.spread(shares.argmax(1) + 1, 0, len(cube))
    assert np.array_equal(labels, map_scene(model, torch.from_numpy(cube), stride=stride, border=border)[0])
    pixels = torch.from_numpy(grid.pixels(0, len(grid)))
    expected = mapping.predict(model, torch.from_numpy(cube), pixels)
    torch.testing.assert_close(torch.from_numpy(shares), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [1, 2, 7, 10])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_pixel_takes_the_nearest_predicted_one(size, stride):
    grid = Grid.of((size, 9), 1, stride=stride)
    values = np.arange(len(grid))
    spread = grid.spread(values, 0, size)
    for row in range(size):
        for column in range(9):
            distance = np.abs(grid.pixels(0, len(grid)) - (row, column))
            assert (distance[spread[row, column]] == distance.min(0)).all()
    assert np.array_equal(np.concatenate([grid.spread(values, i, i + 1) for i in range(size)]), spread)


def test_rows_are_asked_for_once_and_few_at_a_time():
    cube, asked = make_cube(40, 9), []

    def read(start, stop):
        asked.append((start, stop))
        return cube[start:stop]

    list(map_blocks(make_model(), read, Grid.of(cube.shape[:2], PATCH), CPU, block_rows=5))
    assert max(stop - start for start, stop in asked) <= 5
    assert sorted(row for start, stop in asked for row in range(start, stop)) == list(range(40))


@pytest.mark.parametrize("n_bands", [N_BANDS, 130])
def test_a_block_is_no_larger_when_embedded_than_as_read(n_bands, monkeypatch):
    monkeypatch.setattr(mapping, "PREDICT_BATCH", 9)
    model = create_model("CNN", n_bands=n_bands, n_classes=N_CLASSES, patch_size=PATCH)
    dim = asdict(model.options)["dim"]
    assert N_BANDS < dim < 130
    monkeypatch.setattr(mapping, "BLOCK_BYTES", 5 * 4 * 9 * max(n_bands, dim))  # five rows
    cube, asked = np.zeros((40, 9, n_bands), np.float32), []

    def read(start, stop):
        asked.append(stop - start)
        return cube[start:stop]

    sizes = [len(block) for _, block in map_blocks(model, read, Grid.of(cube.shape[:2], PATCH), CPU)]
    assert (max(asked), set(sizes)) == (5, {5 * 9})


def raster(cube, wavelengths=None, nodata=None, path=Path("scene")):
    return Raster(path, cube.shape, cube.dtype, wavelengths, nodata, _read=lambda start, stop: cube[start:stop])


def test_bands_are_interpolated_at_the_wavelengths_of_the_network():
    theirs = np.array([400.0, 500.0, 700.0, 1000.0])
    values = 3 * theirs + 1  # a straight line stays one
    bands = match_bands(raster(np.zeros((2, 2, 4))), 4, None, resample=False)
    assert np.array_equal(bands(values), values)
    wanted = (400.0, 450.0, 650.0, 700.0, 990.0, 1000.0)
    bands = match_bands(raster(np.zeros((2, 2, 4)), tuple(theirs)), 6, wanted, resample=True)
    np.testing.assert_allclose(bands(values), 3 * np.array(wanted) + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("theirs", "n_bands", "ours", "resample", "message"),
    [
        (None, 5, None, False, "another number of bands, 4, than the network was trained on, 5"),
        ((1.0, 2, 3, 4), 5, (1.0, 2, 3, 4, 5), False, "`--resample` interpolates them"),
        ((400.0, 500, 600, 700), 4, (400.0, 500, 600, 760), False, "band 3 .* 700 nm, where the network has 760 nm"),
        (None, 4, (1.0, 2, 3, 4), True, "scene has none; leave it out"),
        ((1.0, 2, 3, 4), 4, None, True, "the network's training scene has none"),
        ((1.0, 2, 3, 4), 4, (1.0, 2, 3, 9), True, "bands from 1 to 4 nm, but the network wants 1 to 9 nm"),
    ],
)
def test_bands_that_do_not_fit_are_refused(theirs, n_bands, ours, resample, message):
    with pytest.raises(InputError, match=message):
        match_bands(raster(np.zeros((2, 2, 4)), theirs), n_bands, ours, resample=resample)


@pytest.fixture
def trained(tiny_scene, tmp_path):
    """A checkpoint of a network trained on the tiny scene."""
    command = ["--dataset", "Tiny", "--folder", str(tiny_scene.folder), "--model", "CNN", "--patch_size", "3"]
    assert main.main([*command, "--epoch", "2", "--visdom", "off", "--output", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs" / "CNN" / "Tiny").iterdir()
    return run


@pytest.fixture
def scene_file(tiny_scene, tmp_path):
    """The tiny scene as an ENVI file with a place on the Earth."""
    place = {"map info": ["UTM", "1", "1", "500000", "4000000", "30", "30", "16", "North", "WGS-84"]}
    like = replace(raster(tiny_scene.cube), georeference=place)
    write_bands(tmp_path / "scene.hdr", tiny_scene.cube.astype(np.float32), list("abcd"), like)
    return tmp_path / "scene.hdr"


def predict(scene_file, run, tmp_path, *more):
    """Map a file; the exit code and the folders of maps."""
    command = ["--predict", str(scene_file), "--restore", str(run / "last.pt"), "--output", str(tmp_path / "out")]
    rc = main.main([*command, "--cuda", "-1", *more])
    return rc, sorted((tmp_path / "out" / "predict").glob("*/*"))


@pytest.mark.parametrize("suffix", [".hdr", ".tif"])
def test_a_file_is_mapped_as_its_scene_was_with_its_place_and_colours(trained, scene_file, tmp_path, suffix):
    if suffix == ".tif":
        pytest.importorskip("rasterio")
    rc, (folder,) = predict(
        scene_file, trained, tmp_path, "--probabilities", "--map_format", {".hdr": "envi", ".tif": "geotiff"}[suffix]
    )
    assert rc == 0
    labels = np.load(folder / "prediction.npy")
    assert np.array_equal(labels, np.load(trained / "prediction.npy"))
    written = open_raster(folder / f"map{suffix}")
    assert np.array_equal(written.rows(0, 9)[:, :, 0], labels)
    assert written.georeference is not None
    shares = open_raster(folder / f"probabilities{suffix}").rows(0, 9)
    assert np.array_equal(shares.argmax(-1) + 1, labels)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    entropy = open_raster(folder / f"entropy{suffix}").rows(0, 9)[:, :, 0]
    np.testing.assert_allclose(entropy, -(shares * np.log(shares)).sum(-1), atol=1e-5)
    facts = json.loads((folder / "mapping.json").read_text())
    data = scene_file.with_suffix(".img")
    assert facts["fingerprints"][str(data)] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert facts["checkpoint"] == hashlib.sha256((trained / "last.pt").read_bytes()).hexdigest()
    kept = {"map.png", "map.pdf", "mapping.json", "prediction.npy"} | {
        f"{name}{suffix}" for name in ("map", "probabilities", "entropy")
    }
    assert {path.name for path in folder.iterdir() if path.suffix != ".img"} == kept


def cut_off(scene_file, trained, tmp_path, monkeypatch, *more):
    """The folder of a mapping that was cut off after some blocks."""
    monkeypatch.setattr(mapping, "PREDICT_BATCH", 4)
    calls, read = [], predict_module.RowReader.__call__

    def killed(self, start, stop):
        calls.append(start)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return read(self, start, stop)

    with monkeypatch.context() as patched:
        patched.setattr(predict_module.RowReader, "__call__", killed)
        rc, (folder,) = predict(scene_file, trained, tmp_path, "--block_rows", "1", *more)
    assert rc == 130
    return folder


def test_a_killed_mapping_goes_on_where_it_stopped_and_gives_the_same(trained, scene_file, tmp_path, monkeypatch):
    folder = cut_off(scene_file, trained, tmp_path, monkeypatch, "--probabilities")
    ((first, last),) = json.loads((folder / "progress.json").read_text())["done"]
    assert first == 0 < last < 108
    assert not (folder / "map.hdr").exists()
    rc, folders = predict(scene_file, trained, tmp_path, "--probabilities")
    assert rc == 0
    assert folders == [folder]
    rc, (whole,) = predict(scene_file, trained, tmp_path / "whole", "--probabilities")
    assert rc == 0
    for name in ("prediction.npy", "map.img", "probabilities.img", "entropy.img"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


CONTEXT = ("--spectral", "snv,derivative", "--context", "gaussian", "--context_size", "5")


@pytest.fixture
def trained_with_context(tiny_scene, tmp_path):
    """A checkpoint with a pre-treatment, a context and a temperature."""
    command = ["--dataset", "Tiny", "--folder", str(tiny_scene.folder), "--model", "CNN", "--patch_size", "3", *CONTEXT]
    command += ["--epoch", "2", "--visdom", "off", "--val_fraction", "0.3", "--calibrate"]
    assert main.main([*command, "--output", str(tmp_path / "context")]) == 0
    (run,) = (tmp_path / "context" / "CNN" / "Tiny").iterdir()
    return run


def test_a_context_is_applied_to_a_file_as_to_its_scene_whatever_the_blocks(
    trained_with_context, trained, scene_file, tmp_path, monkeypatch
):
    expected = np.load(trained_with_context / "prediction.npy")
    confidence = np.load(trained_with_context / "maps.npz")["confidence"].astype(np.float32)
    for rows in (64, 2, 1):
        monkeypatch.setattr(predict_module, "CONTEXT_ROWS", rows)
        rc, folders = predict(scene_file, trained_with_context, tmp_path / str(rows), "--probabilities")
        assert rc == 0
        assert np.array_equal(np.load(folders[-1] / "prediction.npy"), expected)
        shares = open_raster(folders[-1] / "probabilities.hdr").rows(0, 9)
        np.testing.assert_allclose(shares.max(-1), confidence, atol=1e-3)
    monkeypatch.undo()
    temperature = json.loads((trained_with_context / "metrics.json").read_text())["temperature"]
    monkeypatch.setattr(predict_module.GaussianContext, "__call__", lambda self, probabilities, *_: probabilities)
    rc, folders = predict(scene_file, trained_with_context, tmp_path / "none", "--probabilities")
    without = open_raster(folders[-1] / "probabilities.hdr").rows(0, 9)
    assert np.abs(without - shares).max() > 1e-3
    assert temperature != 1


def test_a_killed_mapping_with_a_context_goes_on_and_gives_the_same(
    trained_with_context, scene_file, tmp_path, monkeypatch
):
    folder = cut_off(scene_file, trained_with_context, tmp_path, monkeypatch, "--probabilities")
    rc, folders = predict(scene_file, trained_with_context, tmp_path, "--probabilities")
    assert rc == 0
    assert folders == [folder]
    rc, (whole,) = predict(scene_file, trained_with_context, tmp_path / "whole", "--probabilities")
    assert rc == 0
    for name in ("prediction.npy", "probabilities.img", "entropy.img"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert not [*folder.glob("*.part"), *folder.glob("*.full")]


def test_a_stride_is_refused_with_a_context(trained_with_context, scene_file, tmp_path, capsys):
    assert predict(scene_file, trained_with_context, tmp_path, "--test_stride", "2") == (2, [])
    assert "context needs all pixels" in capsys.readouterr().err


def test_another_job_does_not_go_on_in_the_folder_of_a_killed_one(trained, scene_file, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "_write_outputs", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert predict(scene_file, trained, tmp_path)[0] == 130
    monkeypatch.undo()
    rc, folders = predict(scene_file, trained, tmp_path, "--probabilities")
    assert rc == 0
    assert len(folders) == 2


def test_a_folder_in_which_another_process_maps_is_left_alone(trained, scene_file, tmp_path, monkeypatch):
    folder = cut_off(scene_file, trained, tmp_path, monkeypatch)
    with FileLock(folder / predict_module.LOCK):
        rc, folders = predict(scene_file, trained, tmp_path)
    assert rc == 0
    assert len(folders) == 2
    assert not (folder / "map.hdr").exists()


@pytest.mark.parametrize("change", ["labels.part", "progress.json", "img", "key"])
def test_what_is_damaged_or_of_another_scene_is_not_gone_on_with(
    trained, tiny_scene, scene_file, tmp_path, monkeypatch, change
):
    more = ()
    if change == "key":
        scene_file, more = tmp_path / "two.npz", ("--key", "first")
        np.savez(scene_file, first=tiny_scene.cube, second=tiny_scene.cube[::-1])
    folder = cut_off(scene_file, trained, tmp_path, monkeypatch, *more)
    if change == "labels.part":
        (folder / change).write_bytes(b"")
    elif change == "progress.json":
        (folder / change).write_text("[]")
    elif change == "img":
        data = scene_file.with_suffix(".img")
        data.write_bytes(np.fromfile(data, np.float32)[::-1].tobytes())
    more = ("--key", "second") if change == "key" else ()
    rc, folders = predict(scene_file, trained, tmp_path, *more)
    assert rc == 0
    assert len(folders) == 2
    raster = open_raster(scene_file, "second" if change == "key" else None)
    whole = tmp_path / "again"
    assert predict(scene_file, trained, whole, *more)[0] == 0
    (expected,) = (whole / "out" / "predict").glob("*/*")
    assert raster.shape == tiny_scene.cube.shape
    assert np.array_equal(np.load(folders[1] / "prediction.npy"), np.load(expected / "prediction.npy"))


def test_a_mapping_that_fails_at_once_leaves_nothing(trained, scene_file, tmp_path, monkeypatch, capsys):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partial_map.os, "posix_fallocate", no_space, raising=False)
    rc, folders = predict(scene_file, trained, tmp_path)
    assert (rc, folders) == (2, [])
    assert "no space is left on the disk for" in capsys.readouterr().err


@pytest.mark.parametrize("stride", ["1", "4"])
def test_without_data_there_is_no_label_no_probability_and_no_entropy(trained, tiny_scene, tmp_path, stride):
    cube = tiny_scene.cube.astype(np.float32)
    cube[1:6, 2:7] = np.nan
    np.save(tmp_path / "hole.npy", cube)
    rc, (folder,) = predict(tmp_path / "hole.npy", trained, tmp_path, "--test_stride", stride, "--probabilities")
    assert rc == 0
    hole = np.isnan(cube).all(-1)
    assert np.array_equal(np.load(folder / "prediction.npy") == 0, hole)
    for name in ("probabilities", "entropy"):
        image = open_raster(folder / f"{name}.hdr")
        assert image.nodata is not None and np.isnan(image.nodata)
        assert np.array_equal(np.isnan(image.rows(0, 9)).all(-1), hole)
        assert np.array_equal(np.isnan(image.rows(0, 9)).any(-1), hole)


@pytest.mark.parametrize("context", [(), CONTEXT])
def test_beside_a_gap_a_run_and_a_mapping_of_its_scene_agree(tiny_scene, tmp_path, monkeypatch, context):
    seen = []
    monkeypatch.setattr(
        run_module, "map_scene", lambda model, cube, **more: seen.append(cube) or map_scene(model, cube, **more)
    )
    home, cube, gt = tmp_path / "Gaps", tiny_scene.cube.astype(np.float32), tiny_scene.gt
    home.mkdir()
    cube[2:5, 2:9] = -9999
    np.save(home / "cube.npy", cube)
    np.save(home / "gt.npy", gt)
    text = 'cube = "cube.npy"\ngt = "gt.npy"\nclass_names = ["a", "b", "c"]\nnodata = -9999\n'
    (home / "scene.toml").write_text(text)
    command = ["--dataset", str(home), "--model", "CNN", "--patch_size", "5", "--epoch", "3", "--visdom", "off"]
    command += context
    assert (
        main.main([*command, "--training_sample", "0.3", "--sampling_mode", "random", "--output", str(tmp_path)]) == 0
    )
    (run,) = (tmp_path / "CNN" / "Gaps").iterdir()
    rc, (folder,) = predict(home, run, tmp_path, "--probabilities")
    assert rc == 0
    assert np.array_equal(np.load(folder / "prediction.npy"), np.load(run / "prediction.npy"))
    confidence = np.load(run / "maps.npz")["confidence"].astype(np.float32)
    highest = open_raster(folder / "probabilities.hdr").rows(0, 9).max(-1)
    highest[2:5, 2:9] = 0  # instead of NaN
    np.testing.assert_allclose(highest, confidence, atol=1e-3)
    assert (seen[0][2:5, 2:9] == 0).all() and (seen[0] == 0).all(-1).sum() == 21  # as RowReader has it
    notes = json.loads((run / "metrics.json").read_text())["protocol"]["notes"]
    assert "cube.npy: 21 pixels have no data; they count as unlabelled" in notes


def test_a_scene_is_mapped_by_the_path_of_its_description(trained, tiny_scene, tmp_path):
    home = tmp_path / "my.scene"
    home.mkdir()
    np.save(home / "cube.npy", tiny_scene.cube)
    (home / "scene.toml").write_text('cube = "cube.npy"\nclass_names = ["a", "b", "c"]\n')
    for path in (home, home / "scene.toml"):
        rc, folders = predict(path, trained, tmp_path)
        assert rc == 0
        assert np.array_equal(np.load(folders[-1] / "prediction.npy"), np.load(trained / "prediction.npy"))


def test_pixels_without_data_are_left_unlabelled_and_counted(trained, tiny_scene, tmp_path, capsys):
    cube = tiny_scene.cube.astype(np.float32)
    cube[2, 3], cube[5, 6, 1] = np.nan, np.inf
    np.save(tmp_path / "gaps.npy", cube)
    rc, (folder,) = predict(tmp_path / "gaps.npy", trained, tmp_path)
    assert rc == 0
    labels = np.load(folder / "prediction.npy")
    assert {tuple(pixel) for pixel in np.argwhere(labels == 0)} == {(2, 3), (5, 6)}
    told = json.loads((folder / "mapping.json").read_text())
    assert (told["pixels_without_data"], told["of_them_some_bands_not_finite"]) == (2, 1)
    assert "1 of the pixels have bands that are NaN or infinite; they are 0 in the map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--key", "x"), r"gaps\.npy has no variable 'x'"),
        (("--epoch", "3"), "--predict does not use --epoch"),
        (("--block_rows", "0"), "--block_rows must be at least 1"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_one_sentence(trained, tiny_scene, tmp_path, capsys, more, message):
    np.save(tmp_path / "gaps.npy", tiny_scene.cube)
    rc, folders = predict(tmp_path / "gaps.npy", trained, tmp_path, *more)
    assert rc == 2
    assert re.search(message, capsys.readouterr().err)
    assert folders == []


def test_a_scene_smaller_than_the_networks_patch_is_refused(trained, tiny_scene, tmp_path, capsys):
    np.save(tmp_path / "strip.npy", tiny_scene.cube[:2])
    rc, folders = predict(tmp_path / "strip.npy", trained, tmp_path)
    assert (rc, folders) == (2, [])
    assert re.search(r"strip\.npy: 2 x 12 pixels are less than the network's patch, 3 x 3", capsys.readouterr().err)


def test_options_of_a_mapping_are_refused_in_training(tiny_scene, capsys):
    assert main.main(["--dataset", "Tiny", "--folder", str(tiny_scene.folder), "--resample"]) == 2
    assert "--resample goes with --predict" in capsys.readouterr().err
