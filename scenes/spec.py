"""What is known of a scene before its files are opened: the facts of the catalogue or of a scene.toml."""

import colorsys
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scenes.labels import Numbering

log = logging.getLogger(__name__)
# Far from each other, from white (the page) and from black (unlabelled); the first few are the farthest apart.
# fmt: off
PALETTE = (
    "#1f77b4", "#e13c2d", "#0f960f", "#ff69e1", "#ffd23c", "#78692d", "#00f0d2", "#871e4b",
    "#4b3cb4", "#007869", "#f09696", "#b4e187", "#e1b4ff", "#5ad2f0", "#ff3c87", "#d27800",
    "#969696", "#3cf087", "#879600", "#5a3c78", "#f0c387", "#0f87ff", "#0f5a0f", "#873c1e",
)
# fmt: on

MASK_KEYS = {"TRAIN_GT.mat": "TR", "TEST_GT.mat": "TE"}  # file name -> variable, the same for every scene


@dataclass(frozen=True)
class MaskSpec:
    """Facts about a scene's published fixed masks, TRAIN_GT.mat and TEST_GT.mat.

    Attributes:
        names: class names in the masks' numbering; index i is mask id i + 1.
        train_counts, test_counts: pixels per class of each mask, in the same order.
        transposed: whether the masks are (W, H) although the scene is (H, W).
    """

    names: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True)
class SceneSpec:
    """Facts about a scene; None means that a fact is not known or that a file does not exist.

    Attributes:
        name: the scene's name.
        folder: subfolder of the data root; for a scene.toml the path of the folder that it is in.
        unlabelled: values of the label maps that are unlabelled; () for 0.
        exclude_classes: names or values of classes whose pixels count as unlabelled.
        numbering: of the label maps, see `labels.Numbering`; None if the classes are 1, 2, ... and 0 is unlabelled.
        source: sensor, place, and where the files come from.
        class_names, class_counts, palette: per class, index i for class i + 1: name, pixels, "#rrggbb".
        cube_file, gt_file: names of its files; one file may hold both. None if the project simulates the scene.
        cube_key, gt_key: variables in those files, "s.f" for field f of a MATLAB struct s; None if a file has only one
            array that fits.
        shape: (H, W, n_bands) as used, which may be fewer bands than the file has.
        rgb_bands: 0-based bands near 650, 550 and 460 nm, for a picture.
        n_dropped: last bands of the file that are not used.
        drop_bands: bands of the file, from 0, that are left out, beside those that hold no information.
        overlap: bands that are used where two detectors see the same, see `wavelengths.in_order`.
        wavelengths: of the bands, in nm.
        nodata: value of the pixels without data.
        pixel_size: metres across a pixel.
        aliases: other names of the scene.
        urls: file name -> address, only of what can be downloaded without a form.
        sums: file name -> SHA-256, if known.
        masks: the published fixed masks.
        described: path of the user's scene.toml; then shape and rgb_bands are None until the cube is opened.
        mask_files: training and test mask that the scene.toml names.
        mask_keys: their variables in those files, or None.
    """

    name: str
    folder: str
    source: str
    class_names: tuple[str, ...]
    palette: tuple[str, ...]
    class_counts: tuple[int, ...] | None = None
    cube_file: str | None = None
    cube_key: str | None = None
    gt_file: str | None = None
    gt_key: str | None = None
    shape: tuple[int, int, int] | None = None
    rgb_bands: tuple[int, int, int] | None = None
    n_dropped: int = 0
    drop_bands: tuple[int, ...] = ()
    overlap: str = "both"
    wavelengths: tuple[float, ...] | None = None
    nodata: float | None = None
    pixel_size: float | None = None
    aliases: tuple[str, ...] = ()
    urls: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    masks: MaskSpec | None = None
    unlabelled: tuple[int, ...] = ()
    exclude_classes: tuple[str, ...] = ()
    numbering: "Numbering | None" = None
    described: str | None = None
    mask_files: tuple[str, str] | None = None
    mask_keys: tuple[str | None, str | None] = (None, None)

    @property
    def n_classes(self) -> int:
        """Number of classes, unlabelled not counted."""
        return len(self.class_names)

    @property
    def n_labelled(self) -> int | None:
        """Number of labelled pixels, None if the class counts are not known."""
        return None if self.class_counts is None else sum(self.class_counts)


def choose_rgb(n_bands: int, wavelengths: tuple[float, ...] | None) -> tuple[int, int, int]:
    """Choose bands for a picture: red, green and blue, or else three of the short-wave infrared, or evenly spread."""
    for colours_nm in ((650, 550, 460), (2200, 1650, 1080)) if wavelengths else ():
        distances = [[abs(wavelength - wanted) for wavelength in wavelengths or ()] for wanted in colours_nm]
        bands = [band.index(min(band)) for band in distances]
        if len({*bands}) == 3 and max(map(min, distances)) <= 60:
            return bands[0], bands[1], bands[2]
    return (2 * n_bands // 3, n_bands // 3, 0)


def colours(n_classes: int) -> tuple[str, ...]:
    """Give a colour per class: those of the palette, and beyond its end hues that are far apart."""
    more = []
    for i in range(n_classes - len(PALETTE)):
        red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.45 + 0.15 * (i % 4), 0.9 - 0.17 * (i % 3))
        more.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return (*PALETTE[:n_classes], *more)


def note(notes: list[str] | None, sentence: str) -> None:
    """Log a sentence on what was corrected in reading a scene, and append it to the notes."""
    log.info("%s", sentence)
    if notes is not None:
        notes.append(sentence)
