"""Download a scene's files, resume an interrupted transfer, and keep only what agrees with the catalogue."""

import hashlib
import logging
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import requests
from tqdm import tqdm

from scenes.catalogue import find_scene
from scenes.matfiles import open_arrays
from scenes.spec import MASK_KEYS, SceneSpec
from utils import write_atomically

CHUNK = 1 << 14  # bytes, which is also the most that a broken transfer loses
TIMEOUT = (15, 60)  # seconds to connect, seconds between two bytes

log = logging.getLogger(__name__)


class DownloadError(OSError):
    """A file is missing and cannot be fetched, or is not the expected one; the message says what to do."""


def download(name: str, folder: Path | str) -> list[Path]:
    """Download a scene's files into its subfolder; files that exist are checked and kept.

    Args:
        name: scene name or alias.
        folder: data root; the files go into its subfolder for the scene.
    Returns:
        Paths of all files of the scene.
    Raises:
        InputError: no scene has that name.
        DownloadError: a file cannot be downloaded, or needs a form, or is not what the catalogue describes.
    """
    spec = find_scene(name)
    home = Path(folder) / spec.folder
    targets = [home / file for file in _files(spec)]
    if not targets:
        log.info("%s needs no download (%s)", spec.name, spec.source)
    for target in targets:
        if target.exists():
            _keep(spec, target)
        elif target.name in spec.urls:
            _fetch(spec, target)
    if not all(target.exists() for target in targets):
        raise DownloadError(_by_hand(spec, home, "some of its files must be fetched by hand"))
    return targets


def check(spec: SceneSpec, path: Path) -> None:
    """Compare a file with what the catalogue knows of it: its SHA-256, or else its content.

    Args:
        spec: the scene.
        path: a file under the name that the catalogue gives it.
    Raises:
        DownloadError: the first difference, as the end of a sentence about the file.
    """
    if path.name in spec.sums:
        if (found := _sha256(path)) != spec.sums[path.name]:
            raise DownloadError(f"its SHA-256 is {found}, but {spec.sums[path.name]} is expected")
        return
    key, shape, counts = _expected(spec, path.name)
    try:
        arrays = open_arrays(path)
        array = None if key not in arrays else arrays[key].read()
    except ValueError as error:
        raise DownloadError("it cannot be read") from error
    if array is None:
        raise DownloadError(f"it has no variable {key!r}, only {', '.join(map(repr, arrays))}")
    if array.shape != shape:
        raise DownloadError(f"the shape of {key!r} is {array.shape}, but {shape} is expected")
    if len(shape) == 2:
        _check_labels(array, counts)


def _files(spec: SceneSpec) -> list[str]:
    """Give the names of the scene's files, each once."""
    masks = tuple(MASK_KEYS) if spec.masks else ()
    return [file for file in dict.fromkeys((spec.cube_file, spec.gt_file, *masks)) if file]


def _expected(spec: SceneSpec, file: str) -> tuple[str | None, tuple[int, ...], tuple[int, ...] | None]:
    """Give variable, shape and pixels per class (None: not known) that a file of the scene must hold."""
    assert spec.shape is not None
    height, width, n_bands = spec.shape
    if spec.masks is not None and file in MASK_KEYS:
        counts = {"TR": spec.masks.train_counts, "TE": spec.masks.test_counts}[MASK_KEYS[file]]
        return MASK_KEYS[file], (width, height) if spec.masks.transposed else (height, width), counts
    if file == spec.gt_file:
        return spec.gt_key, (height, width), spec.class_counts
    return spec.cube_key, (height, width, n_bands + spec.n_dropped), None


def _check_labels(labels, counts):
    if not np.issubdtype(labels.dtype, np.integer):
        raise DownloadError(f"its labels are {labels.dtype}, but whole numbers are expected")
    if counts is None:
        return
    ids, found = np.unique(labels[labels > 0], return_counts=True)
    found = dict(zip(ids.tolist(), found.tolist(), strict=True))
    expected = dict(enumerate(counts, start=1))
    for k in sorted(found | expected):
        if found.get(k, 0) != expected.get(k, 0):
            raise DownloadError(f"class {k} has {found.get(k, 0)} pixels, but {expected.get(k, 0)} are expected")


def _keep(spec, target):
    """Check that a file is the right one, and leave it as it is; never replace a file of the user."""
    if target.name not in spec.urls:
        log.info("%s exists (not checked)", target)
        return
    try:
        check(spec, target)
    except DownloadError as error:
        raise DownloadError(
            f"{target} is not the file that {spec.name} needs, {error}: move it away and repeat the command"
        ) from error
    log.info("%s exists already", target)


def _fetch(spec, target):
    """Download one file, check it in a folder beside its place, and only then move it there."""
    url = spec.urls[target.name]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _transfer(url, part)
    except requests.RequestException as error:
        host = urlsplit(url).netloc
        reason = f"there is no connection to {host} ({type(error).__name__})"
        if error.response is not None:
            reason = f"{host} answers {error.response.status_code} for {target.name}"
        raise DownloadError(_by_hand(spec, target.parent, reason)) from error
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".checking-") as room:
        candidate = part.replace(Path(room, target.name))
        try:
            check(spec, candidate)
        except DownloadError as error:
            raise DownloadError(
                f"what {url} sends is not the {target.name} of {spec.name}, {error}: it was deleted; "
                f"try again later, or put the right file into {target.parent}"
            ) from error
        candidate.replace(target)
    found = _sha256(target)
    log.info("%s fetched, SHA-256 %s", target, found)
    _record(target, found)


def _transfer(url, part):
    """Add to `part` what it lacks, or fetch all of it if the server cannot resume."""
    held = _size(part)
    response = _request(url, held)
    resumes = response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
    if response.status_code in (206, 416) and not resumes:  # `part` is no beginning of that file
        response.close()
        response = _request(url, 0)
    with response:
        response.raise_for_status()
        held = held if response.status_code == 206 else 0
        length = response.headers.get("Content-Length")
        total = held + int(length) if length else None
        with (
            part.open("ab" if held else "wb") as file,
            tqdm(desc=part.stem, total=total, initial=held, unit="B", unit_scale=True, disable=None) as bar,
        ):
            try:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
            except requests.RequestException as error:
                raise _broken_off(url, file.tell()) from error
    if total is not None and _size(part) != total:
        raise _broken_off(url, _size(part))


def _request(url, start):
    """Ask for an address from byte `start` on."""
    headers = {"Accept-Encoding": "identity"}  # a compressed body could be neither counted nor resumed
    if start:
        headers["Range"] = f"bytes={start}-"
    return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)


def _broken_off(url, held):
    return DownloadError(f"the transfer of {url} broke off after {held} bytes: repeat the command to resume there")


def _by_hand(spec, home, reason):
    """Give a sentence on every missing file: why, where to get it, and where to put it."""
    missing = [file for file in _files(spec) if not (home / file).exists()]
    wanted = ", ".join(f"{file} (from {spec.urls[file]})" if file in spec.urls else file for file in missing)
    source = "" if all(file in spec.urls for file in missing) else f" (source: {spec.source})"
    return f"{spec.name} is not complete because {reason}: put {wanted} into {home}{source}"


def _record(target, found):
    """Write a file's sum into the folder's SHA256SUMS, in place of an earlier one of the same name."""
    sums = target.with_name("SHA256SUMS")
    lines = sums.read_text().splitlines() if sums.exists() else []
    lines = [line for line in lines if line[66:] != target.name]  # 64 digits, two characters, the name
    write_atomically(sums, "\n".join([*lines, f"{found}  {target.name}"]) + "\n")


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _sha256(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
