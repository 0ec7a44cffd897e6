"""Scenes of one's own: a scene.toml beside the files, checked, and turned into the facts of a scene."""

import colorsys
import difflib
import math
import re
import sys
from pathlib import Path

from scenes.catalogue import PALETTE, SCENES, SceneSpec, find_scene
from utils import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "scene.toml"
AUGMENTED = "augmented"
_LONGEST = 1 << 22  # bytes of a description
KEYS = {
    "name": "text: the scene's name (default: the folder's)",
    "cube": "text: the file of the cube",
    "cube_key": "text: the variable in that file (default: its only array of three axes)",
    "gt": "text: the file of the ground truth",
    "gt_key": "text: the variable in that file (default: its only array of two axes)",
    "class_names": "list of texts: the names of the classes 1, 2, ...",
    "palette": 'list of texts "#rrggbb": a colour per class',
    "wavelengths": "list of numbers: of the bands, in nm",
    "rgb_bands": "list of three whole numbers: the bands, from 0, for red, green and blue",
    "nodata": "number: the value of pixels without data",
    "pixel_size": "number above 0: metres across a pixel, for scale bars (default: what the cube's file tells)",
    "source": "text: where the scene comes from",
    "train": "text: the file of the training mask",
    "test": "text: the file of the test mask",
}


def find_spec(name: str, folder: Path) -> SceneSpec:
    """Look up a scene: in the catalogue, else FOLDER/NAME/scene.toml, else a path to a scene.toml or to its folder.

    Args:
        name: what the user typed; case, "-" and "_" do not matter in a name.
        folder: data root.
    Raises:
        InputError: there is no such scene (all choices are named), or its scene.toml is wrong.
    """
    try:
        return find_scene(name)
    except ValueError as error:
        own = {path.parent.name: path for path in sorted(Path(folder).glob(f"*/{FILE}"))}
        for title, path in own.items():
            if _plain(title) == _plain(name):
                return read_description(path)
        path = Path(name) / FILE if Path(name).is_dir() else Path(name)
        if path.is_file() and path.suffix.lower() == ".toml":
            return read_description(path)
        if path.name == FILE or path.suffix.lower() == ".toml":
            raise InputError(
                f"{path}: no such file; `python main.py --describe FILE` suggests what to write"
            ) from error
        if path.is_file():
            raise InputError(
                f"{path} is a file, not a scene; `python main.py --describe {path}` suggests a {FILE} for it"
            ) from error
        if _plain(name).startswith(AUGMENTED):
            raise InputError(
                f"{name} is not published in a stable form; `python main.py --augment 2 --dataset NAME` writes one, or "
                f"put a {FILE} into {Path(folder) / name} that names the cube and your larger training mask"
            ) from error
        more = f"; described in {folder}: {', '.join(own)}" if own else ""
        raise InputError(f"{error}{more}") from error


def read_description(path: Path) -> SceneSpec:
    """Read a scene.toml; nothing else is opened, so that shape and bands are not known yet.

    Args:
        path: the file.
    Returns:
        The spec, whose `shape` is None, and `rgb_bands` unless they are given.
    Raises:
        InputError: what is wrong, with file, line and key.
    """
    try:
        if path.stat().st_size > _LONGEST:
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
        raise InputError(f"{path} is no valid TOML: {reason}; texts stand in quotes") from error
    return _Checked(path, text, words).spec()


class _Checked:
    """The entries of a description, each checked as it is asked for."""

    def __init__(self, path: Path, text: str, words: dict):
        self.path, self.text, self.words = path, text, words
        for key in words:
            if key not in KEYS:
                close = difflib.get_close_matches(key, KEYS, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise self.wrong(key, f"is unknown{hint}; choose from {', '.join(KEYS)}")

    def wrong(self, key: str, what: str) -> InputError:
        pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]|\s*\[+\s*{re.escape(key)}\b")
        lines = [number for number, line in enumerate(self.text.splitlines(), start=1) if pattern.match(line)]
        return InputError(f"{self.path}{f', line {lines[0]}' if lines else ''}: {key[:60]!r} {what}")

    def take(self, key: str, fits, default=None):
        if key not in self.words:
            return default
        if not fits(self.words[key]):
            raise self.wrong(key, f"must be {KEYS[key].split(' (default')[0]}")
        return self.words[key]

    def spec(self) -> SceneSpec:
        home = self.path.resolve().parent
        name = self.take("name", _is_text, home.name)
        if not re.fullmatch(r"\w[\w .+-]{0,99}", name):
            raise self.wrong("name", "must begin with a letter or digit and hold letters, digits, spaces, . + - _ only")
        if _plain(name) in map(_plain, SCENES):
            raise self.wrong("name", "is that of a scene of the catalogue; give it another one (or another folder)")
        names = tuple(self.take("class_names", _all(_is_text), []))
        if len(set(names)) < len(names):
            raise self.wrong("class_names", "names a class twice")
        palette = tuple(self.take("palette", _all(_is_colour), colours(len(names))))
        if len(palette) != len(names):
            raise self.wrong("palette", f"has {len(palette)} colours for {len(names)} class names")
        wavelengths = self.take("wavelengths", _all(_is_number))
        if wavelengths is not None and not all(math.isfinite(value) and value > 0 for value in wavelengths):
            raise self.wrong("wavelengths", "must be above 0")
        rgb = self.take("rgb_bands", lambda v: _all(_is_band)(v) and len(v) == 3)
        nodata = self.take("nodata", _is_number)
        pixel_size = self.take("pixel_size", lambda v: _is_number(v) and 0 < v < math.inf)
        files = {key: self.take(key, _is_text) for key in ("cube", "gt", "train", "test")}
        keys = {key: self.take(key, _is_text) for key in ("cube_key", "gt_key")}
        if files["cube"] is None:
            raise self.wrong("cube", f"is missing; it must be {KEYS['cube']}")
        if (files["train"] is None) != (files["test"] is None):
            raise self.wrong("train" if files["train"] else "test", "needs its counterpart; give train and test")
        if not names and (files["gt"] or files["train"]):
            raise self.wrong("class_names", "is missing; `python main.py --describe FILE` of the label map suggests it")
        return SceneSpec(
            name=name,
            cube_file=files["cube"],
            cube_key=keys["cube_key"],
            shape=None,
            gt_file=files["gt"],
            gt_key=keys["gt_key"],
            class_names=names,
            class_counts=None,
            palette=tuple(colour.lower() for colour in palette),
            rgb_bands=None if rgb is None else tuple(rgb),
            source=self.take("source", _is_text, str(self.path)),
            urls={},
            sums={},
            masks=None,
            folder=str(home),
            described=str(self.path.resolve()),
            mask_files=(files["train"], files["test"]) if files["train"] else None,
            wavelengths=None if wavelengths is None else tuple(map(float, wavelengths)),
            nodata=None if nodata is None else float(nodata),
            pixel_size=None if pixel_size is None else float(pixel_size),
        )


def choose_rgb(n_bands: int, wavelengths: tuple[float, ...] | None) -> tuple[int, int, int]:
    """Choose bands for a picture: the ones nearest to 650, 550 and 460 nm, or, not knowing those, spread evenly."""
    if wavelengths is None:
        return (2 * n_bands // 3, n_bands // 3, 0)
    return tuple(min(range(n_bands), key=lambda i: abs(wavelengths[i] - wanted)) for wanted in (650, 550, 460))


def colours(n_classes: int) -> tuple[str, ...]:
    """Give a colour per class: the palette's, and beyond its end hues that lie apart."""
    more = []
    for i in range(n_classes - len(PALETTE)):
        red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.45 + 0.15 * (i % 4), 0.9 - 0.17 * (i % 3))
        more.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return (*PALETTE[:n_classes], *more)


def _plain(name):
    return name.lower().replace("-", "").replace("_", "")


def _is_text(value):
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_number(value):
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64)


def _is_band(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_colour(value):
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None


def _all(fits):
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))
