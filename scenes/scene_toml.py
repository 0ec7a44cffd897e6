"""A scene as a TOML file, checked: scene.toml beside the user's files, and the files of the catalogue."""

import logging
import math
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from limits import regular_file
from scenes.bands import parse_bands
from scenes.spec import MASK_KEYS, MaskSpec, SceneSpec, colours
from scenes.wavelengths import OVERLAPS
from utils import InputError, did_you_mean, plain_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

log = logging.getLogger(__name__)
FILE = "scene.toml"
_LONGEST = 1 << 22  # bytes of a file
_COMMON = {
    "name": "text: the scene's name (default: the folder's)",
    "cube": "text: the file of the cube",
    "cube_key": "text: the variable in that file (default: its only array of three axes)",
    "gt": "text: the file of the ground truth",
    "gt_key": "text: the variable in that file (default: its only array of two axes)",
    "class_names": "a list of texts: the names of the classes 1, 2, ...",
    "palette": 'a list of texts "#rrggbb": a colour per class',
    "wavelengths": "a list of numbers: of the bands, in nm",
    "rgb_bands": "a list of three whole numbers: the bands, from 0, for red, green and blue",
    "drop_bands": 'a list of whole numbers and of ranges such as "104-108": bands, from 0, that are left out',
    "overlap": 'text: "both", "vnir" or "swir": whose bands are used where two detectors overlap (default: both)',
    "nodata": "a number: the value of pixels without data",
    "pixel_size": "a number above 0: metres across a pixel, for scale bars (default: what the cube's file says)",
    "source": "text: where the scene comes from",
}
KEYS = _COMMON | {
    "train": "text: the file of the training mask",
    "test": "text: the file of the test mask",
    "train_key": "text: the variable in the file of the training mask",
    "test_key": "text: the variable in the file of the test mask",
    "unlabelled": "a whole number or a list of them: the values of unlabelled pixels (default: 0)",
    "exclude_classes": "a list of class names, or of their numbers: their pixels count as unlabelled",
}
CATALOGUE_KEYS = _COMMON | {
    "aliases": "a list of texts: other names of the scene",
    "simulated": "true or false: whether the project simulates the scene, which then has no files",
    "shape": "a list of three whole numbers above 0: rows, columns and bands as used",
    "n_dropped": "a whole number: last bands of the file that are not used",
    "class_counts": "a list of whole numbers: labelled pixels per class",
    "urls": 'a table of file = "https://...": what can be downloaded without a form',
    "sums": 'a table of file = "SHA-256": 64 hexadecimal digits in lower case',
    "masks": f"a table: of {' and '.join(MASK_KEYS)}",
}
MASKS_KEYS = {
    "names": "a list of texts: the class names in the masks' numbering (default: class_names)",
    "train_counts": "a list of whole numbers: training pixels per class",
    "test_counts": "a list of whole numbers: test pixels per class",
    "transposed": "true or false: whether the masks are stored as (columns, rows)",
}


def read_description(path: Path, taken: Collection[str] = ()) -> SceneSpec:
    """Read a user's scene.toml; no other file is opened, so that shape and bands are not known yet.

    Args:
        path: the file.
        taken: names that the scene may not have, those of the catalogue.
    Returns:
        The spec, whose `shape` is None, and so is `rgb_bands` unless the file gives it.
    Raises:
        InputError: what is wrong, with file, line and key.
    """
    entries = _read(path, KEYS)
    home = path.resolve().parent
    facts = _common_facts(entries, home.name, str(path), taken)
    train, test = entries.take("train", _is_text), entries.take("test", _is_text)
    if facts["cube_file"] is None:
        raise entries.missing("cube")
    if (train is None) != (test is None):
        raise entries.wrong("train" if train else "test", "needs its counterpart; give train and test")
    for key, file in (("train_key", train), ("test_key", test)):
        if key in entries.words and file is None:
            raise entries.wrong(key, f"needs {key[:-4]}; give that too, or --train_set and --{key} on the command line")
    if not facts["class_names"] and (facts["gt_file"] or train):
        advice = "`python main.py --describe FILE` of the label map suggests it"
        raise entries.wrong("class_names", f"is missing; {advice}")
    masks = None if train is None else (train, test)
    unlabelled = entries.take("unlabelled", lambda value: _is_value(value) or _all(_is_value)(value), ())
    excluded = entries.take("exclude_classes", _all(lambda value: _is_text(value) or _is_value(value)), ())
    return SceneSpec(
        **facts,
        folder=str(home),
        described=str(path.resolve()),
        mask_files=masks,
        mask_keys=(entries.take("train_key", _is_text), entries.take("test_key", _is_text)),
        unlabelled=tuple(unlabelled) if isinstance(unlabelled, list | tuple) else (unlabelled,),
        exclude_classes=tuple(map(str, excluded)),
    )


def read_catalogue_file(path: Path, taken: Collection[str] = ()) -> SceneSpec:
    """Read a file of the catalogue, which knows more of a scene than a user's scene.toml.

    Args:
        path: the file.
        taken: names of the scenes read before.
    Raises:
        InputError: what is wrong, with file, line and key.
    """
    entries = _read(path, CATALOGUE_KEYS)
    for key in ("name", "source", "class_names", "shape", "rgb_bands"):
        if key not in entries.words:
            raise entries.missing(key)
    facts = _common_facts(entries, "", "", taken)
    simulated = entries.take("simulated", _is_flag, False)
    for key, file in (("cube", facts["cube_file"]), ("gt", facts["gt_file"])):
        if file is None and not simulated:
            raise entries.missing(key)
    names = facts["class_names"]
    shape = entries.take("shape", lambda value: _all(_is_whole)(value) and len(value) == 3 and min(value) > 0)
    if max(facts["rgb_bands"]) >= shape[2]:
        raise entries.wrong("rgb_bands", f"counts from 0, and the cube has {shape[2]} bands")
    wavelengths = facts["wavelengths"]
    if wavelengths is not None and len(wavelengths) != shape[2]:
        raise entries.wrong("wavelengths", f"has {len(wavelengths)} numbers for {shape[2]} bands")
    masks = _masks(entries, names)
    files = [file for file in (facts["cube_file"], facts["gt_file"], *(MASK_KEYS if masks else ())) if file]
    urls, sums = entries.take("urls", _is_table(_is_address), {}), entries.take("sums", _is_table(_is_sum), {})
    for key, table, known in (("urls", urls, files), ("sums", sums, [*urls])):
        for file in table:
            if file not in known:
                raise entries.wrong(key, f"names {file!r}{did_you_mean(file, known)}; choose from {', '.join(known)}")
    return SceneSpec(
        **facts,
        folder=facts["name"],
        class_counts=_counts(entries, "class_counts", len(names)) if "class_counts" in entries.words else None,
        shape=tuple(shape),
        n_dropped=entries.take("n_dropped", _is_whole, 0),
        aliases=tuple(entries.take("aliases", _all(_is_text), ())),
        urls=urls,
        sums=sums,
        masks=masks,
    )


class _Entries:
    """The entries of a file, or of one table in it, each checked when it is taken."""

    def __init__(self, path: Path, text: str, words: dict, keys: dict[str, str], table: str | None = None):
        self.path, self.text, self.words, self.keys, self.table = path, text, words, keys, table
        for key in words:
            if key not in keys:
                raise self.wrong(key, f"is unknown{did_you_mean(key, keys)}; choose from {', '.join(keys)}")

    def wrong(self, key: str, what: str) -> InputError:
        """Say what is wrong with an entry, and in which line of the file it is."""
        lines = self.text.splitlines()
        line = 0 if self.table is None else _find_line(lines, self.table)
        line = _find_line(lines, key, line) or line
        shown = key[:60] if self.table is None else f"{self.table}.{key[:60]}"
        return InputError(f"{self.path}{f', line {line}' if line else ''}: {shown!r} {what}")

    def missing(self, key: str) -> InputError:
        """Say that an entry is missing, and what it must be."""
        return self.wrong(key, f"is missing; it must be {self.keys[key]}")

    def take(self, key: str, fits: Callable, default: Any = None) -> Any:
        """Give an entry, or the default if it is absent; InputError if it does not fit."""
        if key not in self.words:
            return default
        if not fits(self.words[key]):
            raise self.wrong(key, f"must be {self.keys[key].split(' (default')[0]}")
        return self.words[key]


def _find_line(lines: list[str], key: str, start: int = 0) -> int:
    """Number, from 1, of the first line from `start` on that begins an entry or a table; 0 if there is none."""
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]|\s*\[+\s*{re.escape(key)}\b")
    return next((i for i, line in enumerate(lines[start:], start + 1) if pattern.match(line)), 0)


def _read(path: Path, keys: dict[str, str]) -> _Entries:
    try:
        if regular_file(path).stat().st_size > _LONGEST:
            raise InputError(f"{path} is too long for a description of a scene")
        text = path.read_text(encoding="utf-8-sig")
        words = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8; save it so") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
        advice = "put a path with backslashes in single quotes" if "\\" in reason else "texts stand in quotes"
        raise InputError(f"{path} is no valid TOML: {reason}; {advice}") from error
    return _Entries(path, text, words, keys)


def _common_facts(entries: _Entries, name: str, source: str, taken: Collection[str]) -> dict:
    """Take what every description may hold, with these defaults; as keyword arguments of SceneSpec."""
    name = entries.take("name", _is_text, name)
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name):
        raise entries.wrong("name", "must begin with a letter or digit and hold letters, digits, spaces, . + - _ only")
    if plain_name(name) in map(plain_name, taken):
        raise entries.wrong("name", "is that of a scene of the catalogue; give it another one (or another folder)")
    names = tuple(entries.take("class_names", _all(_is_text), ()))
    if len(set(names)) < len(names):
        raise entries.wrong("class_names", "names a class twice")
    palette = entries.take("palette", _all(_is_colour), colours(len(names)))
    if len(palette) != len(names):
        raise entries.wrong("palette", f"has {len(palette)} colours for {len(names)} class names")
    wavelengths = entries.take("wavelengths", _all(_is_number))
    if wavelengths is not None and not all(math.isfinite(value) and value > 0 for value in wavelengths):
        raise entries.wrong("wavelengths", "must be above 0")
    if wavelengths is not None and max(wavelengths) < 100:  # as `wavelengths.in_nanometres` has it
        log.info("%s: its wavelengths are all below 100 and are taken to be in um", entries.path)
        wavelengths = [1000 * value for value in wavelengths]
    rgb_bands = entries.take("rgb_bands", lambda value: _all(_is_whole)(value) and len(value) == 3)
    dropped = entries.take("drop_bands", lambda value: isinstance(value, list) and all(map(_is_band, value)), ())
    overlap = entries.take("overlap", lambda value: value in OVERLAPS, OVERLAPS[0])
    nodata = entries.take("nodata", _is_number)
    pixel_size = entries.take("pixel_size", lambda value: _is_number(value) and 0 < value < math.inf)
    return {
        "name": name,
        "source": entries.take("source", _is_text, source),
        "cube_file": entries.take("cube", _is_text),
        "cube_key": entries.take("cube_key", _is_text),
        "gt_file": entries.take("gt", _is_text),
        "gt_key": entries.take("gt_key", _is_text),
        "class_names": names,
        "palette": tuple(colour.lower() for colour in palette),
        "wavelengths": None if wavelengths is None else tuple(map(float, wavelengths)),
        "rgb_bands": None if rgb_bands is None else tuple(rgb_bands),
        "drop_bands": parse_bands(dropped, f"{entries.path}: 'drop_bands'"),
        "overlap": overlap,
        "nodata": None if nodata is None else float(nodata),
        "pixel_size": None if pixel_size is None else float(pixel_size),
    }


def _masks(entries: _Entries, class_names: tuple[str, ...]) -> MaskSpec | None:
    table = entries.take("masks", lambda value: isinstance(value, dict))
    if table is None:
        return None
    entries = _Entries(entries.path, entries.text, table, MASKS_KEYS, "masks")
    names = tuple(entries.take("names", _all(_is_text), class_names))
    if sorted(names) != sorted(class_names):
        raise entries.wrong("names", "must be the class names, each once, in the masks' order")
    train, test = (_counts(entries, key, len(names)) for key in ("train_counts", "test_counts"))
    return MaskSpec(names, train, test, entries.take("transposed", _is_flag, False))


def _counts(entries: _Entries, key: str, n_classes: int) -> tuple[int, ...]:
    counts = entries.take(key, _all(_is_whole))
    if counts is None:
        raise entries.missing(key)
    if len(counts) != n_classes:
        raise entries.wrong(key, f"has {len(counts)} numbers for {n_classes} class names")
    return tuple(counts)


def _is_text(value):
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_number(value):
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_value(value):
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _is_band(value):
    return _is_whole(value) or isinstance(value, str)


def _is_flag(value):
    return isinstance(value, bool)


def _is_colour(value):
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None


def _is_address(value):
    return isinstance(value, str) and value.startswith("https://")


def _is_sum(value):
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _all(fits):
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _is_table(fits):
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))
