"""Small valid files of every format with random bytes changed: each reader gives data or InputError, in bounds.

Of the marker "long", see `make test-long`. The environment variable MIM_EXAMPLES gives the number of changes for each
format, in place of 1000. Files are read in another process, whose memory and time are limited.
"""

import io
import json
import logging
import multiprocessing
import os
import signal
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from mat_writers import ARRAYS, STRUCT, WRITERS, write_big_endian
from tiny import large, small, write_described

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is not limited here"),
]
N_EACH = int(os.environ.get("MIM_EXAMPLES", "1000"))
MEMORY, SECONDS, SHOWN = 2 << 30, 20, 10
EXTREMES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80", b"\x01\0\0\0")
EXTREMES += (b"1e999", b"-1", b"9" * 20, b"[", b"{", b'"', b"\n", b"nan")


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit, cut off, insert, leave out, or overwrite by what is at the end of a range, up to four times."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not data:
            break
        at, kind = int(rng.integers(len(data))), rng.integers(6)
        if kind <= 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 4:
            del data[at : at + int(rng.integers(1, 9))]
        else:
            extreme = EXTREMES[rng.integers(len(EXTREMES))]
            data[at : at + len(extreme)] = extreme
    return bytes(data)


def changed_member(content: bytes, rng: np.random.Generator) -> bytes:
    """Change the bytes of one file in an archive, which is written again with their checksum."""
    buffer, archive = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    chosen = names[rng.integers(len(names))] if rng.random() < 0.5 else max(names, key=lambda name: "data.pkl" in name)
    with zipfile.ZipFile(buffer, "w") as new:
        for name in names:
            new.writestr(name, changed(archive.read(name), rng) if name == chosen else archive.read(name))
    return buffer.getvalue()


# The readers, each given the changed file


def arrays(path):
    from scenes.rasters import read_file

    for stored in read_file(path)[0].values():
        stored.read()


def image(path):
    from scenes.rasters import open_raster

    raster = open_raster(path)
    raster.rows(0, raster.shape[0])


def scene(path):
    from datasets import load_scene

    load_scene(str(path.parent), path.parent.parent, need_gt=True)


def checkpoint(path):
    import torch

    from training.checkpoint import Checkpoint

    Checkpoint.load(path).network(torch.device("cpu"))


def run(path):
    from reporting.run_folder import Run

    found = Run.read(path.parent)
    assert found.maps and found.prediction.size and found.sentences
    assert isinstance(found.records, list)


# Valid files: a folder is written, and the name of the file in it that is changed is given


def matlab(writer, contents):
    def write(home):
        home.mkdir()
        writer(home / "a.mat", contents)
        return "a.mat"

    return write


def numpy_file(home):
    home.mkdir()
    np.save(home / "a.npy", ARRAYS["cube"])
    return "a.npy"


def numpy_archive(save):
    def write(home):
        home.mkdir()
        save(home / "a.npz", cube=ARRAYS["cube"], gt=ARRAYS["gt"])
        return "a.npz"

    return write


def envi(home):
    from scenes.rasters import write_bands, write_labels

    home.mkdir()
    cube = ARRAYS["wide"].astype(np.float32)
    write_bands(home / "a.hdr", cube, ["one", "two"], nodata=-1)
    more = "wavelength = {500.0, 600.0}\nwavelength units = Nanometers\nbbl = {1, 0}\nreflectance scale factor = 10\n"
    more += "map info = {UTM, 1, 1, 500000, 4000000, 30, 30, 33, North, WGS-84}\n"
    with (home / "a.hdr").open("a") as file:
        file.write(more)
    write_labels(home / "b.hdr", ARRAYS["gt"], ("x", "y", "z"), ("#ff0000", "#00ff00", "#0000ff"))
    return "a.hdr"


def envi_classes(home):
    envi(home)
    return "b.hdr"


def geotiff(home):
    rasterio = pytest.importorskip("rasterio")
    home.mkdir()
    facts = {"driver": "GTiff", "height": 9, "width": 12, "count": 4, "dtype": "uint16", "compress": "deflate"}
    facts |= {"crs": "EPSG:32633", "transform": rasterio.Affine(30, 0, 366015, 0, -30, 5809965)}
    with rasterio.open(home / "cube.tif", "w", **facts) as file:
        file.write(small().cube.transpose(2, 0, 1))
        for band in range(1, 5):
            file.update_tags(band, wavelength=f"{400 + 100 * band} nm")
    return "cube.tif"


def polygons(home):
    pytest.importorskip("pyogrio")
    geotiff(home)
    features = []
    for i, kind in enumerate(("Land", "Water", "Roof", "Land", "Water", "Roof")):
        left, top = 366015 + 60 * i, 5809965 - 30 * i
        corners = [[left, top], [left + 60, top], [left + 60, top - 90], [left, top - 90], [left, top]]
        shape = {"type": "Polygon", "coordinates": [corners]}
        features.append({"type": "Feature", "properties": {"kind": kind, "id": i}, "geometry": shape})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (home / "gt.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    names = 'class_names = ["Land", "Water", "Roof"]'
    (home / "scene.toml").write_text(f'cube = "cube.tif"\ngt = "gt.geojson"\ngt_key = "kind"\n{names}\n')
    return "gt.geojson"


def description(home):
    write_described(home, small())
    more = 'palette = ["#ff0000", "#00ff00", "#0000ff"]\nwavelengths = [500, 600.5, 700, 800]\nrgb_bands = [2, 1, 0]\n'
    more += 'name = "Small"\ndrop_bands = ["1-2"]\nnodata = 0\npixel_size = 1.5\nexclude_classes = ["Roof"]\n'
    with (home / "scene.toml").open("a") as file:
        file.write(more)
    return "scene.toml"


def finished(name):
    def write(home):
        import main

        home.mkdir()
        flags = ["--patch_size", "3", "--epoch", "1", "--visdom", "off", "--cuda", "-1", "--model", "MiM-v1"]
        flags += ["--dim", "4", "--d_inner", "4", "--d_state", "2", "--val_fraction", "0.3", "--calibrate"]
        output, data = home.with_name(f"{home.name}-runs"), write_described(home.parent / "data" / home.name, large())
        assert main.main(["--dataset", str(data), "--output", str(output), *flags]) == 0
        (folder,) = output.glob("*/*/*")
        for file in folder.iterdir():
            if file.suffix not in (".png", ".pdf", ".html"):
                (home / file.name).write_bytes(file.read_bytes())
        return name

    return write


SPARSE = {"s": scipy.sparse.csc_matrix(ARRAYS["gt"])}
V4 = {"a": ARRAYS["wide"][:, :, 0], "b": ARRAYS["gt"].astype(float)}
BIG_ENDIAN = matlab(lambda path, array: write_big_endian(path, "cube", array), ARRAYS["cube"])
PLAIN = {name: ARRAYS[name] for name in ("cube", "gt")}
FORMATS = {
    "mat v4": (matlab(lambda path, found: scipy.io.savemat(path, found, format="4"), V4), arrays, changed),
    "mat v5": (matlab(WRITERS["v5"], PLAIN | STRUCT), arrays, changed),
    "mat v5, sparse": (matlab(WRITERS["v5"], SPARSE), arrays, changed),
    "mat v5, big endian": (BIG_ENDIAN, arrays, changed),
    "mat v7": (matlab(WRITERS["v7"], PLAIN), arrays, changed),
    "mat v7.3": (matlab(WRITERS["v7.3"], PLAIN | STRUCT), arrays, changed),
    "mat v7.3, compressed": (matlab(WRITERS["v7.3 compressed"], PLAIN), arrays, changed),
    "npy": (numpy_file, arrays, changed),
    "npz": (numpy_archive(np.savez), arrays, changed),
    "npz, compressed": (numpy_archive(np.savez_compressed), arrays, changed),
    "npz, a member": (numpy_archive(np.savez), arrays, changed_member),
    "ENVI header": (envi, image, changed),
    "ENVI classes": (envi_classes, image, changed),
    "GeoTIFF": (geotiff, image, changed),
    "GeoJSON": (polygons, scene, changed),
    "scene.toml": (description, scene, changed),
    "last.pt": (finished("last.pt"), checkpoint, changed),
    "last.pt, a member": (finished("last.pt"), checkpoint, changed_member),
    "maps.npz": (finished("maps.npz"), run, changed),
    "maps.npz, a member": (finished("maps.npz"), run, changed_member),
    "prediction.npy": (finished("prediction.npy"), run, changed),
    "metrics.json": (finished("metrics.json"), run, changed),
    "log.jsonl": (finished("log.jsonl"), run, changed),
}


def read_all(home: Path, name: str, read, change, first: int) -> None:
    """Read one changed file after another; notes what was last begun, and every error that is no InputError."""
    import resource

    from utils import InputError

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    path, content = home / name, (home / name).read_bytes()
    read(path)  # imports what it needs
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    n_refused = 0
    with (home.parent / "faults").open("a", buffering=1) as faults:
        for seed in range(first, N_EACH):
            (home.parent / "begun").write_text(str(seed))
            path.write_bytes(change(content, np.random.default_rng(seed)))
            signal.alarm(SECONDS)
            try:
                read(path)
            except InputError as error:
                n_refused += 1
                if "\n" in str(error) or not 0 < len(str(error)) < 1000:
                    faults.write(f"{seed}: the sentence {str(error)!r}\n")
            except BaseException as error:
                faults.write(f"{seed}: {type(error).__name__} {str(error)!r}\n")
            signal.alarm(0)
        (home.parent / "refused").write_text(str(n_refused))
    path.write_bytes(content)
    os._exit(0)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path, kind):
    write, read, change = FORMATS[kind]
    home = tmp_path / "home"
    name = write(home)
    content = (home / name).read_bytes()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scenes.rasters", "datasets", "reporting.run_folder", "training.checkpoint"])
    first, ends = 0, []
    while first < N_EACH and len(ends) < SHOWN:
        (home / name).write_bytes(content)
        process = context.Process(target=read_all, args=(home, name, read, change, first))
        process.start()
        process.join()
        assert (tmp_path / "begun").exists(), f"the unchanged file cannot be read ({process.exitcode})"
        if process.exitcode == 0:
            break
        first = int((tmp_path / "begun").read_text()) + 1
        ends.append(f"{first - 1}: the process ended by {process.exitcode}")
    faults = [*ends, *(tmp_path / "faults").read_text().splitlines()]
    assert not faults, f"{len(faults)} faults: " + "\n".join(faults[:SHOWN])
    assert int((tmp_path / "refused").read_text()) > N_EACH // 20  # else nothing is changed that matters
