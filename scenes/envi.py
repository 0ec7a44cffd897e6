"""ENVI headers: which two files belong together, and the checked entries of a header."""

import logging
import math
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from scenes.wavelengths import in_nanometres
from utils import InputError, no_such_file

log = logging.getLogger(__name__)

INTERLEAVES = ("bil", "bip", "bsq")
DATA_SUFFIXES = ("", ".img", ".dat", ".raw", ".bin", ".hyspex", *(f".{name}" for name in INTERLEAVES))
# what lies beside an image without being one
_NO_DATA = (".hdr", ".xml", ".txt", ".md", ".enp", ".sta", ".ovr", ".rrd", ".prj", ".tfw", ".wld", ".met", ".json")
_NO_DATA += (".png", ".jpg", ".jpeg", ".pdf", ".kml", ".toml", ".tif", ".tiff", ".npy", ".npz", ".mat", ".zip", ".gz")
_KINDS = {"1": "u1", "2": "i2", "3": "i4", "4": "f4", "5": "f8", "12": "u2", "13": "u4", "14": "i8", "15": "u8"}
_TYPES = {code: np.dtype(kind) for code, kind in _KINDS.items()}  # ENVI's codes, without those of complex numbers
_UNLABELLED = re.compile(
    r"^\W*$|un-?(class|label|known|def|assign)|background|no.?data|none|mask|ignore", re.IGNORECASE
)
_LONGEST = 1 << 24  # bytes of a header
_MOST = 1 << 31  # lines, samples or bands


@dataclass(frozen=True)
class Header:
    """The entries of an ENVI header; the attributes are those of `rasters.Raster`, and:

    Attributes:
        start: bytes before the first value.
        interleave: "bil", "bip" or "bsq".
        dtype: with the byte order of the file.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    start: int
    interleave: str
    wavelengths: tuple[float, ...] | None
    nodata: float | None
    georeference: dict | None
    class_names: tuple[str, ...] | None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None
    palette: tuple[str, ...] | None = None
    bad_bands: tuple[int, ...] = ()


def find_pair(path: Path) -> tuple[Path, Path] | None:
    """Find header and data file, given either of them.

    Args:
        path: a header (.hdr), or the data file beside one.
    Returns:
        Header and data file; None if the path is no header and none lies beside it.
    Raises:
        InputError: a header that is missing, or without its data file.
    """
    if path.suffix.lower() == ".hdr":
        if not path.is_file():
            raise no_such_file(path)
        found = data_files(path) or [
            each
            for each in sorted(path.parent.iterdir())
            if each.is_file() and each.stem == path.stem and each.suffix.lower() not in _NO_DATA
        ]
        if not found:
            raise InputError(
                f"{path}: its data file is missing; put {path.stem} or {path.stem}.img (or .dat, .raw, .bin, .bil, "
                ".bip, .bsq) beside it"
            )
        if len(found) > 1:
            raise InputError(
                f"{path}: {', '.join(each.name for each in found)} could all be its data; name the data file instead"
            )
        return path, found[0]
    if not path.is_file():
        raise no_such_file(path)
    there = {each.name.lower(): each for each in sorted(path.parent.iterdir(), reverse=True)}
    names = (f"{path.name}.hdr".lower(), f"{path.stem}.hdr".lower())
    header = next((there[name] for name in names if name in there), None)
    return None if header is None else (header, path)


def data_files(header: Path) -> list[Path]:
    """List the files beside a header that can hold its data by their names; one with a header of its own cannot."""
    names = {f"{header.stem}{suffix}".lower() for suffix in DATA_SUFFIXES}
    beside = {each.name.lower(): each for each in sorted(header.parent.iterdir(), reverse=True) if each.is_file()}
    found = [beside[name] for name in sorted(names & {*beside})]
    return [each for each in found if f"{each.name}.hdr".lower() not in beside or header.stem == each.name]


def read_header(path: Path) -> Header:
    """Read an ENVI header and check its entries; InputError if it cannot be used."""
    words = _words(path)

    def wrong(key, choices):
        return InputError(f"{path}: '{key} = {str(words.get(key))[:40]}' must be {choices}; correct the header")

    def number(key, default, least, most):
        try:
            value = int(words.get(key, default))
        except (TypeError, ValueError):
            raise wrong(key, f"a whole number from {least} to {most}") from None
        if not least <= value <= most:
            raise wrong(key, f"a whole number from {least} to {most}")
        return value

    for key in ("samples", "lines", "bands", "data type", "interleave"):
        if key not in words:
            raise InputError(f"{path}: the entry '{key}' is missing; correct the header")
    height, width, n_bands = (number(key, None, 1, _MOST) for key in ("lines", "samples", "bands"))
    if words["data type"] not in _TYPES:
        raise wrong("data type", f"one of {', '.join(_TYPES)} (complex numbers are not read)")
    dtype = _TYPES[words["data type"]]
    if "byte order" not in words and dtype.itemsize > 1:
        log.info("%s does not say the byte order, which is taken to be 0 (least significant byte first)", path)
    dtype = dtype.newbyteorder(">" if number("byte order", 0, 0, 1) else "<")
    interleave = str(words["interleave"]).lower()
    if interleave not in INTERLEAVES:
        raise wrong("interleave", f"one of {', '.join(INTERLEAVES)}")
    if str(words.get("file compression", "0")) != "0":
        raise wrong("file compression", "0, for compressed files are not read")
    if str(words.get("file type", "")).lower() == "envi spectral library":
        raise InputError(f"{path} is a spectral library, not an image; give an image")
    for key in ("major frame offsets", "minor frame offsets"):
        if any(str(word).strip("0 ") for word in _as_list(words.get(key, "0"))):
            raise wrong(key, "0, for frame offsets are not read")
    start = number("header offset", 0, 0, 1 << 62)
    georeference: dict = {"map info": _as_list(words["map info"])} if "map info" in words else {}
    if "projection info" in words:
        georeference["projection info"] = _as_list(words["projection info"])
    if "coordinate system string" in words:
        georeference["coordinate system string"] = ",".join(_as_list(words["coordinate system string"]))
    classes = _as_list(words.get("class names", []))
    names = classes[1:]  # the first one is of the unlabelled
    if names and not _UNLABELLED.search(classes[0]):
        said = "%s calls its class 0 %r; if these are no unlabelled pixels, name it first and say `unlabelled = -1`"
        log.info(said, path, classes[0])
    scale, offset = _scale_and_offset(words, n_bands, path)
    return Header(
        (height, width, n_bands),
        dtype,
        start,
        interleave,
        _wavelengths(words, n_bands, path),
        _nodata(words, path),
        georeference or None,
        tuple(names) or None,
        scale,
        offset,
        _palette(words, len(names)),
        _bad_bands(words, n_bands, path),
    )


def data_type_code(dtype: np.dtype) -> str:
    """Give ENVI's code of a type."""
    return next(code for code, kind in _TYPES.items() if kind == dtype)


def write_header(path: Path, facts: dict) -> None:
    """Write a header of these entries."""
    if "coordinate system string" in facts:  # braces keep the commas in it
        facts = facts | {"coordinate system string": f"{{{facts['coordinate system string']}}}"}
    _spectral().write_envi_header(str(path), facts)


def _spectral() -> ModuleType:
    from spectral.io import envi  # here, because most scenes do without it

    logging.getLogger("spectral").setLevel(logging.CRITICAL)  # its errors are raised as well
    return envi


def _words(path: Path) -> dict:
    """Read the entries of a header: lower-case keys, values as text or as lists of text."""
    if path.stat().st_size > _LONGEST:
        raise InputError(f"{path} is too long for an ENVI header; is it the data file?")
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "plain.hdr")  # the package reads files in the system's own encoding
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        if not text.lstrip().upper().startswith("ENVI"):
            kind = "an ESRI header" if re.search(r"^\s*NROWS\b", text, re.I | re.M) else "no ENVI header"
            raise InputError(f"{path} is {kind}, and only ENVI headers are read; `gdal_translate -of ENVI` makes one")
        copy.write_text(text.replace("\0", ""), errors="replace")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # keys in capitals
                return _spectral().read_envi_header(str(copy))
        except Exception as error:  # a damaged header can fail in any way inside the package
            raise InputError(f"{path} is not a readable ENVI header; fetch or copy it again") from error


def _as_list(value) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _floats(value) -> list[float]:
    """Give the numbers of an entry; none if one of the words is not a number."""
    try:
        return [float(word) for word in _as_list(value)]
    except ValueError:
        return []


def _nodata(words: dict, path: Path) -> float | None:
    """Give the value of pixels without data; None, with a message, if the entry is not a number."""
    if "data ignore value" not in words:
        return None
    word = "".join(_as_list(words["data ignore value"])).strip(" ,;\"'")
    values = _floats(word)
    if not values and word.lower() not in ("", "none"):
        log.info("%s: 'data ignore value = %s' is not a number; it is not used", path, word[:40])
    return values[0] if values else None


def _wavelengths(words: dict, n_bands: int, path: Path) -> tuple[float, ...] | None:
    key = _first(words, "wavelength")
    if key is None:
        return None
    values = _floats([word for word in _as_list(words[key]) if word])
    if len(values) != n_bands:
        log.info("%s: its wavelengths are not %d numbers, one per band; they are not used", path, n_bands)
        return None
    unit = _first(words, "wavelength units", "wavelength unit", "wavelength_units")
    return in_nanometres(values, None if unit is None else " ".join(_as_list(words[unit])), path)


def _first(words: dict, *keys: str) -> str | None:
    return next((key for key in keys if key in words), None)


def _scale_and_offset(
    words: dict, n_bands: int, path: Path
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Give what the values are multiplied by and what is added then, per band; None for 1 and 0."""
    kinds = ("data reflectance gain values", "data reflectance offset values")
    kinds = kinds if any(kind in words for kind in kinds) else ("data gain values", "data offset values")
    gains, offsets = (_per_band(words, kind, n_bands, path) for kind in kinds)
    factor = _per_band(words, "reflectance scale factor", n_bands, path)
    if factor is not None and not all(factor):
        log.info("%s: its 'reflectance scale factor' is 0 and is not used", path)
        factor = None
    if gains is None and offsets is None and factor is not None:
        gains = tuple(1 / each for each in factor)
    elif factor is not None:
        log.info("%s has gains or offsets and a 'reflectance scale factor'; the latter is not used", path)
    gains = None if gains is None or all(gain == 1 for gain in gains) else gains
    offsets = None if offsets is None or not any(offsets) else offsets
    return gains, offsets


def _per_band(words: dict, key: str, n_bands: int, path: Path) -> tuple[float, ...] | None:
    """Give an entry of one number, or of one per band, for every band; None, with a message, if it is neither."""
    if key not in words:
        return None
    values = _floats([word for word in _as_list(words[key]) if word])
    if len(values) not in (1, n_bands) or not all(map(math.isfinite, values)):
        log.info("%s: '%s' is neither one finite number nor %d of them; it is not used", path, key, n_bands)
        return None
    return tuple(values * n_bands if len(values) == 1 else values)


def _palette(words: dict, n_classes: int) -> tuple[str, ...] | None:
    """Give the colours of the classes, without that of the unlabelled; None if there is not one for each."""
    values = _floats([word for word in _as_list(words.get("class lookup", "")) if word])
    whole = all(value in range(256) for value in values)
    if not n_classes or not whole or len(values) != 3 * (n_classes + 1):
        return None
    colours = np.array(values, dtype=int).reshape(-1, 3)[1:].tolist()
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours)


def _bad_bands(words: dict, n_bands: int, path: Path) -> tuple[int, ...]:
    """Give the bands that the list of bad bands marks, in which 1 is good and 0 is bad."""
    if "bbl" not in words:
        return ()
    values = _floats([word for word in _as_list(words["bbl"]) if word])
    if len(values) != n_bands:
        log.info("%s: 'bbl' is not %d numbers, one per band; it is not used", path, n_bands)
        return ()
    return tuple(band for band, value in enumerate(values) if not value > 0)
