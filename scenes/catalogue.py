"""The catalogue: frozen facts about each scene, typed in once and checked by the tests. Opens no file."""

import difflib
from dataclasses import dataclass

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
        names: class names in the masks' own numbering; index i is mask id i + 1.
        train_counts, test_counts: pixels per class of each mask, in the same order.
        transposed: whether the masks are (W, H) where the scene is (H, W).
    """

    names: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True)
class SceneSpec:
    """Facts about a scene; a None says that the fact is not known or that there is no such file.

    Attributes:
        name: the scene's name, as in SCENES.
        cube_file, gt_file: names of its files; one file may hold both. None where the project makes the scene.
        cube_key, gt_key: variables in those files; dots lead into a MATLAB struct. None where a file is one array.
        shape: (H, W, n_bands) as used, which may be fewer bands than the file has.
        class_names, class_counts, palette: per class, index i for class i + 1: name, pixels, "#rrggbb".
        rgb_bands: 0-based bands near 650, 550 and 460 nm, for a picture.
        source: sensor, place, and where the files come from.
        urls: file name -> address, only of what can be fetched without a form.
        sums: file name -> SHA-256, where known.
        masks: the published fixed masks.
        folder: subfolder of the data root; of a described scene the whole path of its folder.
        n_dropped: last bands of the file that are not used.
        described: path of the scene.toml that describes it; then shape and rgb_bands are None until the cube is opened.
        mask_files: training and test mask that its description names.
        wavelengths: of the bands, in nm.
        nodata: value of the pixels without data.
        pixel_size: metres across a pixel.
    """

    name: str
    cube_file: str | None
    cube_key: str | None
    shape: tuple[int, int, int] | None
    gt_file: str | None
    gt_key: str | None
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...] | None
    palette: tuple[str, ...]
    rgb_bands: tuple[int, int, int] | None
    source: str
    urls: dict[str, str]
    sums: dict[str, str]
    masks: MaskSpec | None
    folder: str
    n_dropped: int = 0
    described: str | None = None
    mask_files: tuple[str, str] | None = None
    wavelengths: tuple[float, ...] | None = None
    nodata: float | None = None
    pixel_size: float | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes, unlabelled not counted."""
        return len(self.class_names)

    @property
    def n_labelled(self) -> int | None:
        """Number of labelled pixels, None where the class counts are not known."""
        return None if self.class_counts is None else sum(self.class_counts)


def _columns(table, n_numbers):
    """Split "name number ..., name number ..." into a tuple of names and one tuple per column of numbers."""
    rows = [row.strip().rsplit(maxsplit=n_numbers) for row in table.split(",")]
    names, *numbers = zip(*rows, strict=True)
    return names, *(tuple(map(int, column)) for column in numbers)


def _masks(table, transposed=False):
    return MaskSpec(*_columns(table, 2), transposed)


def _scene(name, files, shape, rgb_bands, classes, source, *, counted=True, urls=None, sums=None, masks=None, **more):
    names, *counts = _columns(classes, int(counted))
    cube, gt = files
    facts = (name, *cube, shape, *gt)
    legend = (names, counts[0] if counts else None, PALETTE[: len(names)])
    sizes = dict(entry.split() for entry in _PIXEL_SIZES.split(","))
    more["pixel_size"] = float(sizes[name]) if name in sizes else None
    return SceneSpec(*facts, *legend, rgb_bands, source, urls or {}, sums or {}, masks, name, **more)


def _ehu(*paths):
    """Addresses of files in the Basque Country collection, by file name."""
    return {path.rsplit("/", 1)[-1]: f"https://www.ehu.eus/ccwintco/uploads/{path}" for path in paths}


def _mask_urls(code):
    root = "https://raw.githubusercontent.com/zhouweilian1904/Mamba-in-Mamba/main/train%20test%20gt"
    return {file: f"{root}/{code}/{file}" for file in MASK_KEYS}


_PIXEL_SIZES = """IndianPines 20, PaviaU 1.3, PaviaC 1.3, Salinas 3.7, KSC 18, Botswana 30, Houston2013 2.5,
Houston2018 1, WHU-Hi-LongKou 0.463, WHU-Hi-HanChuan 0.109, WHU-Hi-HongHu 0.043"""  # metres; the Gulfport's is unsure
_EHU_PAGE = "https://www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes"
_MUUFL_FILE = "muufl_gulfport_campus_1_hsi_220_label.mat"
_WHU_TERMS = "free for academic use under the terms of https://rsidea.whu.edu.cn/resource_WHUHi_sharing.htm"

_SCENES = (
    _scene(
        "IndianPines",
        (("Indian_pines_corrected.mat", "indian_pines_corrected"), ("Indian_pines_gt.mat", "indian_pines_gt")),
        (145, 145, 200),
        (26, 15, 7),
        """Alfalfa 46, Corn-notill 1428, Corn-mintill 830, Corn 237, Grass-pasture 483, Grass-trees 730,
        Grass-pasture-mowed 28, Hay-windrowed 478, Oats 20, Soybean-notill 972, Soybean-mintill 2455, Soybean-clean 593,
        Wheat 205, Woods 1265, Buildings-Grass-Trees-Drives 386, Stone-Steel-Towers 93""",
        f"AVIRIS over Indiana, from {_EHU_PAGE}",
        urls=_ehu("6/67/Indian_pines_corrected.mat", "c/c4/Indian_pines_gt.mat") | _mask_urls("IP"),
        sums={"Indian_pines_gt.mat": "65c4687a8ab04f6da4789799bc3bc4f6e88bccac3ed6a2e6ae367e5e6b9e429c"},
        # Renumbered, and drawn from an older ground truth: neither ids nor totals are those of Indian_pines_gt.
        masks=_masks(
            """Corn-notill 50 1384, Corn-mintill 50 784, Corn 50 184, Grass-pasture 50 447, Grass-trees 50 697,
            Hay-windrowed 50 439, Soybean-notill 50 918, Soybean-mintill 50 2418, Soybean-clean 50 564, Wheat 50 162,
            Woods 50 1244, Buildings-Grass-Trees-Drives 50 330, Stone-Steel-Towers 50 45, Alfalfa 15 39,
            Grass-pasture-mowed 15 11, Oats 15 5"""
        ),
    ),
    _scene(
        "PaviaU",
        (("PaviaU.mat", "paviaU"), ("PaviaU_gt.mat", "paviaU_gt")),
        (610, 340, 103),
        (53, 29, 8),
        """Asphalt 6631, Meadows 18649, Gravel 2099, Trees 3064, Painted metal sheets 1345, Bare Soil 5029,
        Bitumen 1330, Self-Blocking Bricks 3682, Shadows 947""",
        f"ROSIS over the University of Pavia, from {_EHU_PAGE}",
        urls=_ehu("e/ee/PaviaU.mat", "5/50/PaviaU_gt.mat") | _mask_urls("PU"),
        sums={"PaviaU_gt.mat": "23f6a426928f9b32984adffe659e29f554f9fb6c93b5a107528d308d5087a829"},
        # Together they label 1,147 pixels that PaviaU_gt leaves unlabelled.
        masks=_masks(
            """Asphalt 548 6304, Meadows 540 18146, Gravel 392 1815, Trees 524 2912, Painted metal sheets 265 1113,
            Bare Soil 532 4572, Bitumen 375 981, Self-Blocking Bricks 514 3364, Shadows 231 795"""
        ),
    ),
    _scene(
        "PaviaC",
        (("Pavia.mat", "pavia"), ("Pavia_gt.mat", "pavia_gt")),
        (1096, 715, 102),
        (53, 29, 8),
        # Many mirrors list these names in another order, which does not fit the counts.
        """Water 65971, Trees 7598, Meadows 3090, Self-Blocking Bricks 2685, Bare Soil 6584, Asphalt 9248, Bitumen 7287,
        Tiles 42826, Shadows 2863""",
        f"ROSIS over the centre of Pavia, from {_EHU_PAGE}",
        urls=_ehu("e/e3/Pavia.mat", "5/53/Pavia_gt.mat"),
    ),
    _scene(
        "Salinas",
        (("Salinas_corrected.mat", "salinas_corrected"), ("Salinas_gt.mat", "salinas_gt")),
        (512, 217, 204),
        (29, 19, 9),
        """Brocoli_green_weeds_1 2009, Brocoli_green_weeds_2 3726, Fallow 1976, Fallow_rough_plow 1394,
        Fallow_smooth 2678, Stubble 3959, Celery 3579, Grapes_untrained 11271, Soil_vinyard_develop 6203,
        Corn_senesced_green_weeds 3278, Lettuce_romaine_4wk 1068, Lettuce_romaine_5wk 1927, Lettuce_romaine_6wk 916,
        Lettuce_romaine_7wk 1070, Vinyard_untrained 7268, Vinyard_vertical_trellis 1807""",
        f"AVIRIS over the Salinas Valley, California, from {_EHU_PAGE}",
        urls=_ehu("a/a3/Salinas_corrected.mat", "f/fa/Salinas_gt.mat"),
        sums={"Salinas_gt.mat": "ecfab4d31ef5553f097943235d8ea502038eb4a2067b2ad10b33e37c949955e2"},
    ),
    _scene(
        "KSC",
        (("KSC.mat", "KSC"), ("KSC_gt.mat", "KSC_gt")),
        (512, 614, 176),
        (29, 19, 9),
        """Scrub 761, Willow swamp 243, Cabbage palm hammock 256, Cabbage palm/oak hammock 252, Slash pine 161,
        Oak/broadleaf hammock 229, Hardwood swamp 105, Graminoid marsh 431, Spartina marsh 520, Cattail marsh 404,
        Salt marsh 419, Mud flats 503, Water 927""",
        f"AVIRIS over the Kennedy Space Center, Florida, from {_EHU_PAGE}",
        urls=_ehu("2/26/KSC.mat", "a/a6/KSC_gt.mat"),
    ),
    _scene(
        "Botswana",
        (("Botswana.mat", "Botswana"), ("Botswana_gt.mat", "Botswana_gt")),
        (1476, 256, 145),
        (20, 10, 1),
        """Water 270, Hippo grass 101, Floodplain grasses 1 251, Floodplain grasses 2 215, Reeds 269, Riparian 269,
        Firescar 259, Island interior 203, Acacia woodlands 314, Acacia shrublands 248, Acacia grasslands 305,
        Short mopane 181, Mixed mopane 268, Exposed soils 95""",
        f"Hyperion on EO-1 over the Okavango Delta, Botswana, from {_EHU_PAGE}",
        urls=_ehu("7/72/Botswana.mat", "5/58/Botswana_gt.mat"),
    ),
    _scene(
        "Houston2013",
        (("Houston.mat", "Houston"), ("Houston_gt.mat", "Houston_gt")),
        (349, 1905, 144),
        (58, 36, 17),
        """Healthy grass 1251, Stressed grass 1254, Synthetic grass 697, Trees 1244, Soil 1242, Water 325,
        Residential 1268, Commercial 1244, Road 1252, Highway 1227, Railway 1235, Parking lot 1 1233, Parking lot 2 469,
        Tennis court 428, Running track 660""",
        "CASI over the University of Houston, contest data that need the form at "
        "https://machinelearning.ee.uh.edu/2013-ieee-grss-data-fusion-contest/",
        urls=_mask_urls("HU2013"),
        masks=_masks(
            """Healthy grass 198 1053, Stressed grass 190 1064, Synthetic grass 192 505, Trees 188 1056, Soil 186 1056,
            Water 182 143, Residential 196 1072, Commercial 191 1053, Road 193 1059, Highway 191 1036, Railway 181 1054,
            Parking lot 1 192 1041, Parking lot 2 184 285, Tennis court 181 247, Running track 187 473""",
            transposed=True,
        ),
    ),
    _scene(
        "Houston2018",
        (("2018_IEEE_GRSS_DFC_HSI_TR.HDR", None), ("2018_IEEE_GRSS_DFC_GT_TR.tif", None)),
        (601, 2384, 48),
        (19, 12, 6),
        """Healthy grass, Stressed grass, Artificial turf, Evergreen trees, Deciduous trees, Bare earth, Water,
        Residential buildings, Non-residential buildings, Roads, Sidewalks, Crosswalks, Major thoroughfares, Highways,
        Railways, Paved parking lots, Unpaved parking lots, Cars, Trains, Stadium seats""",
        "CASI over the University of Houston, contest data (header, data file of the same name without .HDR, and TIFF) "
        "that need the form at https://machinelearning.ee.uh.edu/"
        "2018-ieee-grss-data-fusion-challenge-fusion-of-multispectral-lidar-and-hyperspectral-data/",
        counted=False,  # the ground truth's grid is finer than the cube's, so the counts depend on the resampling
        n_dropped=2,
    ),
    _scene(
        "MississippiGulfport",
        ((_MUUFL_FILE, "hsi.Data"), (_MUUFL_FILE, "hsi.sceneLabels.labels")),
        (325, 220, 64),
        (26, 15, 6),
        """Trees 23246, Mostly grass 4270, Mixed ground surface 6882, Dirt and sand 1826, Road 6687, Water 466,
        Building shadow 2233, Buildings 6240, Sidewalk 1385, Yellow curb 183, Cloth panels 269""",
        "CASI over Gulfport, Mississippi (MUUFL), from the folder MUUFLGulfportSceneLabels of "
        "https://github.com/GatorSense/MUUFLGulfport, whose licence and citation note apply",
    ),
    _scene(
        "WHU-Hi-LongKou",
        (("WHU_Hi_LongKou.mat", "WHU_Hi_LongKou"), ("WHU_Hi_LongKou_gt.mat", "WHU_Hi_LongKou_gt")),
        (550, 400, 270),
        (112, 67, 27),
        """Corn 34511, Cotton 8374, Sesame 3031, Broad-leaf soybean 63212, Narrow-leaf soybean 4151, Rice 11854,
        Water 67056, Roads and houses 7124, Mixed weed 5229""",
        f"Headwall Nano-Hyperspec on a drone over Longkou, Hubei, {_WHU_TERMS}",
    ),
    _scene(
        "WHU-Hi-HanChuan",
        (("WHU_Hi_HanChuan.mat", "WHU_Hi_HanChuan"), ("WHU_Hi_HanChuan_gt.mat", "WHU_Hi_HanChuan_gt")),
        (1217, 303, 274),
        (112, 67, 27),
        """Strawberry 44735, Cowpea 22753, Soybean 10287, Sorghum 5353, Water spinach 1200, Watermelon 4533,
        Greens 5903, Trees 17978, Grass 9469, Red roof 10516, Gray roof 16911, Plastic 3679, Bare soil 9116, Road 18560,
        Bright object 1136, Water 75401""",
        f"Headwall Nano-Hyperspec on a drone over Hanchuan, Hubei, {_WHU_TERMS}",
    ),
    _scene(
        "WHU-Hi-HongHu",
        (("WHU_Hi_HongHu.mat", "WHU_Hi_HongHu"), ("WHU_Hi_HongHu_gt.mat", "WHU_Hi_HongHu_gt")),
        (940, 475, 270),
        (112, 67, 27),
        """Red roof 14041, Road 3512, Bare soil 21821, Cotton 163285, Cotton firewood 6218, Rape 44557,
        Chinese cabbage 24103, Pakchoi 4054, Cabbage 10819, Tuber mustard 12394, Brassica parachinensis 11015,
        Brassica chinensis 8954, Small Brassica chinensis 22507, Lactuca sativa 7356, Celtuce 1002,
        Film covered lettuce 7262, Romaine lettuce 3010, Carrot 3217, White radish 8712, Garlic sprout 3486,
        Broad bean 1328, Tree 4040""",
        f"Headwall Nano-Hyperspec on a drone over Honghu, Hubei, {_WHU_TERMS}",
    ),
    _scene(
        "Simulated",
        ((None, None), (None, None)),
        (128, 128, 64),
        (8, 4, 2),
        "Water, Meadow, Wheat, Maize, Rapeseed, Woodland, Bare soil, Asphalt, Roof tiles, Greenhouse",
        "no sensor, made by this project from a seed",
        counted=False,
    ),
)

SCENES = {spec.name: spec for spec in _SCENES}
ALIASES = {"Mississippi_Gulfport": "MississippiGulfport", "Simulate_database": "Simulated"}


def _plain(name):
    return name.lower().replace("-", "").replace("_", "")


def find_scene(name: str) -> SceneSpec:
    """Look up a scene by name or alias, without regard to case, '-' and '_'.

    Args:
        name: what the user typed.
    Returns:
        The SceneSpec.
    Raises:
        ValueError: no scene has that name; the message names the choices, and the nearest one when it is close.
    """
    known = {_plain(key): spec for key, spec in SCENES.items()}
    known |= {_plain(alias): SCENES[target] for alias, target in ALIASES.items()}
    if _plain(name) in known:
        return known[_plain(name)]
    close = difflib.get_close_matches(_plain(name), known, n=1)
    hint = f" (did you mean {known[close[0]].name}?)" if close else ""
    raise ValueError(f"unknown scene {name!r}{hint}; choose from {', '.join(SCENES)}")
