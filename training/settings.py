"""The settings of a run: a dataclass whose fields hold the help, choices and defaults of the command line's flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocessing import FIT_ON, NORMALIZATIONS
from pretreatment import STEPS
from splits.split import WITH_FOLDS

SCENE, TRAINING, RUNNING = GROUPS = ("scene, split and normalisation", "training", "running")
PRECISIONS = ("float32", "bfloat16")  # as in engine.PRECISIONS, which needs PyTorch; the next two likewise
OPTIMISERS = ("adamw", "adam", "sgd", "sgd_momentum", "rmsprop", "adagrad", "adadelta")
SCHEDULES = ("one_cycle", "constant", "cosine", "step", "exponential")
RECIPES = ("ours", "published")
CONTEXTS = ("none", "gaussian")


def _about(group: str, help: str, **more: Any) -> dict[str, Any]:
    """Make a field's metadata, of which the command line makes a flag.

    Args:
        group: one of GROUPS, under which --help shows the flag.
        help: its help text.
        more: choices and metavar as argparse has them; swept, if several values make a sweep; aliases, earlier names
            of the flag; renamed_values, earlier names of its values; repeated, whether `RunConfig.command` has it.
    """
    return {"group": group, "help": help, **more}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run; each field is a flag of the command line, with the help text of its metadata.

    `model_options` holds the parts of the model that were given, by the names of the fields of its options (see
    models/options.py); they are flags too.
    """

    dataset: str = field(
        metadata=_about(
            SCENE,
            "scene, or several for a sweep: {scenes}, or your own: a folder in --folder, or a path, with a scene.toml; "
            "case, - and _ do not matter",
            metavar="NAME",
            swept=True,
        )
    )
    folder: Path = field(
        default=Path("Datasets"), metadata=_about(SCENE, "data root, one subfolder per scene", metavar="DIR")
    )
    train_set: Path | None = field(
        default=None,
        metadata=_about(SCENE, "fixed training mask: the array TR, or the only label map in the file", metavar="FILE"),
    )
    test_set: Path | None = field(
        default=None,
        metadata=_about(SCENE, "fixed test mask: the array TE, or the only label map in the file", metavar="FILE"),
    )
    train_key: str | None = field(
        default=None, metadata=_about(SCENE, "variable of the training mask in its file", metavar="VARIABLE")
    )
    test_key: str | None = field(
        default=None, metadata=_about(SCENE, "variable of the test mask in its file", metavar="VARIABLE")
    )
    sampling_mode: str | None = field(
        default=None,
        metadata=_about(
            SCENE,
            "draw the split from the ground truth: random, a fraction of each class; fixed, a number of pixels per "
            "class; disjoint, a fraction of each class on one side of a line; spatial, one fold of blocks with a "
            "buffer between training and test windows; fields, the same with whole connected regions in place of "
            "blocks (default: the scene's fixed masks if it has them, else random)",
            choices=("random", "fixed", "disjoint", "spatial", "fields"),
            renamed_values={"buffered": "spatial"},
        ),
    )
    training_sample: float | None = field(
        default=None,
        metadata=_about(
            SCENE,
            "fraction of each class that trains (default: 0.1); with fixed the number of pixels per class (default: "
            "50), with spatial and fields the largest number (default: all)",
            metavar="N",
        ),
    )
    min_pixels: int = field(
        default=0,
        metadata=_about(SCENE, "leave out classes with fewer labelled pixels when a split is drawn", metavar="N"),
    )
    folds: int = field(default=5, metadata=_about(SCENE, "folds of --sampling_mode spatial and fields", metavar="K"))
    fold: int | None = field(
        default=None,
        metadata=_about(SCENE, "the fold that tests, from 0 (default: the seed modulo --folds)", metavar="I"),
    )
    block_size: int | None = field(
        default=None,
        metadata=_about(
            SCENE,
            "side of the blocks of --sampling_mode spatial in pixels (default: chosen from the scene)",
            metavar="N",
        ),
    )
    buffer: int | None = field(
        default=None,
        metadata=_about(
            SCENE,
            "pixels that --sampling_mode spatial and fields keep between training and test pixels, at least the patch "
            "size (default: the largest patch size of the command)",
            metavar="N",
        ),
    )
    val_fraction: float = field(
        default=0.0,
        metadata=_about(
            SCENE, "fraction of each class's training pixels that is held out for validation", metavar="FRACTION"
        ),
    )
    drop_bands: str = field(
        default="",
        metadata=_about(
            SCENE,
            "bands, counted from 0, to leave out beside those without information, such as 104-108,150",
            metavar="LIST",
        ),
    )
    spectral: str = field(
        default="snv",
        metadata=_about(
            SCENE,
            f"spectral pre-treatment, before the normalisation: {', '.join(STEPS)}; - joins steps and a comma stacks "
            "results, as in snv,derivative-snv",
            metavar="STEPS",
        ),
    )
    normalize: str = field(
        default="zscore", metadata=_about(SCENE, "normalisation of each band", choices=NORMALIZATIONS)
    )
    pca: int = field(
        default=0, metadata=_about(SCENE, "reduce to N whitened principal components; 0 keeps the bands", metavar="N")
    )
    fit_on: str = field(
        default="scene",
        metadata=_about(SCENE, "pixels that fit pre-treatment, normalisation, PCA and context", choices=FIT_ON),
    )
    border: str = field(
        default="mirror",
        metadata=_about(
            SCENE,
            "mirror the scene at its edge, or leave out the pixels whose window would cross it",
            choices=("mirror", "skip"),
        ),
    )

    model: str = field(
        default="MiM",
        metadata=_about(
            TRAINING, "{models}, or several for a sweep; case, - and _ do not matter", metavar="NAME", swept=True
        ),
    )
    model_options: dict[str, Any] = field(default_factory=dict)
    patch_size: int = field(
        default=7,
        metadata=_about(
            TRAINING,
            "side of the window round a pixel, odd, or several for a sweep; some models have another default, see "
            "docs/models.md",
            metavar="P",
            swept=True,
        ),
    )
    context: str = field(
        default="none",
        metadata=_about(
            TRAINING,
            "average the class probabilities over the surroundings of a pixel, weighted by place and by spectrum; on "
            "spatial folds and whole fields without the land near training pixels",
            choices=CONTEXTS,
        ),
    )
    context_size: int = field(
        default=15,
        metadata=_about(
            TRAINING, "side of the window over which --context averages, odd; patches reach beyond it", metavar="S"
        ),
    )
    epoch: int = field(default=150, metadata=_about(TRAINING, "passes over the training pixels", metavar="N"))
    batch_size: int = field(default=64, metadata=_about(TRAINING, "patches per training step, at most", metavar="N"))
    recipe: str = field(
        default="ours",
        metadata=_about(
            TRAINING,
            "values of the settings that are not given: the same for all models, or those that each model's authors "
            "published, without pre-treatment",
            choices=RECIPES,
            renamed_values={"paper": "published"},
        ),
    )
    optimiser: str = field(
        default="adamw",
        metadata=_about(
            TRAINING, "optimiser; sgd_momentum has a momentum of 0.9", choices=OPTIMISERS, aliases=("optimizer",)
        ),
    )
    schedule: str = field(
        default="one_cycle",
        metadata=_about(
            TRAINING,
            "learning rate over the steps: one cycle, constant, a half cosine down to 0, times 0.9 after each tenth, "
            "or times 0.99 after each epoch",
            choices=SCHEDULES,
        ),
    )
    lr: float = field(default=1e-3, metadata=_about(TRAINING, "highest learning rate", metavar="RATE"))
    weight_decay: float = field(default=5e-3, metadata=_about(TRAINING, "weight decay", metavar="RATE"))
    label_smoothing: float = field(
        default=0.1,
        metadata=_about(TRAINING, "fraction of a target that is spread over all classes", metavar="FRACTION"),
    )
    class_balancing: bool = field(
        default=False, metadata=_about(TRAINING, "weigh the classes inversely to their frequency")
    )
    flip_augmentation: bool = field(
        default=True, metadata=_about(TRAINING, "random mirror images and rotations of the patches")
    )
    radiation_augmentation: bool = field(default=False, metadata=_about(TRAINING, "random brightness and noise"))
    mixture_augmentation: bool = field(
        default=False, metadata=_about(TRAINING, "random mixtures within a class, and noise")
    )
    restore: Path | None = field(
        default=None, metadata=_about(TRAINING, "start from these weights", metavar="CHECKPOINT")
    )
    eval_weights: str = field(
        default="last",
        metadata=_about(
            TRAINING,
            "evaluate the weights of the last epoch, or of the best one in validation",
            choices=("last", "best"),
            aliases=("weights",),
        ),
    )
    calibrate: bool = field(
        default=False,
        metadata=_about(
            TRAINING,
            "after training, fit the probabilities to the validation pixels by a temperature",
        ),
    )
    conformal: float | None = field(
        default=None,
        metadata=_about(
            TRAINING,
            "also give each pixel a set of classes that lacks the right one with this risk, such as 0.1; it is fitted "
            "to the validation pixels, with --predict to those of the checkpoint's run",
            metavar="RISK",
        ),
    )

    cuda: int | None = field(
        default=None,
        metadata=_about(RUNNING, "GPU to use, -1 = the CPU (default: the first GPU, else the CPU)", metavar="N"),
    )
    seed: int = field(default=0, metadata=_about(RUNNING, "seed of the first run", metavar="N"))
    data_parallel: bool = field(
        default=False,
        metadata=_about(RUNNING, "under torchrun, split each batch of a run over the processes, instead of the runs"),
    )
    output: Path = field(
        default=Path("runs"),
        metadata=_about(RUNNING, "folder of the runs' folders and results.csv", metavar="DIR", repeated=False),
    )
    precision: str = field(
        default="float32", metadata=_about(RUNNING, "of the layers; the scan is float32", choices=PRECISIONS)
    )
    save_every: int = field(
        default=1,
        metadata=_about(
            RUNNING,
            "save the state every N epochs, and where validation is best: a larger N writes less, but a process that "
            "is killed without a warning loses up to N epochs; Ctrl+C, SIGTERM and SIGHUP lose nothing",
            metavar="N",
            repeated=False,
        ),
    )
    test_stride: int = field(default=1, metadata=_about(RUNNING, "map every N-th pixel and fill between", metavar="N"))
    with_exploration: bool = field(
        default=False,
        metadata=_about(
            RUNNING, "draw the training pixels' spectra, class by class, into the run's folder, and show them in visdom"
        ),
    )
    visdom: str = field(
        default="http://localhost:8097",
        metadata=_about(RUNNING, "server for the live view, or off", metavar="URL", repeated=False),
    )

    @property
    def window(self) -> int:
        """Side of the window that decides a pixel's class: of the patch, and with a context of all patches in it.

        On spatial folds and whole fields it is that of the patch: there the context leaves out all land near training
        pixels, so that no window that decides a test pixel's class overlaps a training window.
        """
        if self.context == "none" or self.sampling_mode in WITH_FOLDS:
            return self.patch_size
        return self.patch_size + self.context_size - 1

    @property
    def fits_spectra(self) -> bool:
        """Whether something is fitted to spectra, for which `fit_on` names the pixels."""
        return self.normalize != "none" or bool(self.pca) or self.context != "none" or "msc" in self.spectral

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What is done to the spectra and fitted to them, by the settings' names, as audit.json has it."""
        return {name: getattr(self, name) for name in ("spectral", "normalize", "fit_on", "pca", "context")}
