"""One run prepared: everything that can be wrong with it is found here, before a file is written."""

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import engine
from context import Surroundings, fit_context
from datasets import Scene
from models import MODELS, create_model
from models.base import PatchClassifier, SceneClassifier
from patches import Augmentation, PatchLoader, class_weights, labelled_pixels
from preprocessing import Preprocessing, fit_preprocessing
from pretreatment import nearest_mean_recall
from reporting import results
from reporting.colours import false_colour
from splits.choose import make_split
from splits.leakage import brief, brief_sentence, distance_to
from splits.split import WITH_FOLDS, Split, hold_out, skip_border
from training.checkpoint import check_backend, check_memory, model_facts, restore_weights
from training.checks import check_bands, check_batches, check_whole_scene, check_window, pca_refused
from training.config import RunConfig
from training.distributed import Ranks
from training.effects import without_effect
from utils import EAGER, GRAPHS, InputError, describe_machine, fingerprint, seed_everything

LOST = 0.1  # of the recall by mean spectra, which is worth a note
WHOLE_SCENE = "the network looks at the whole scene at once: what is said of windows does not hold for it"
log = logging.getLogger("mim")


@dataclass
class Job:
    """Everything of one run that is settled before training starts."""

    config: RunConfig
    scene: Scene
    split: Split
    masks: str  # SHA-256 of training and test pixels as read or drawn, before any are held out or skipped
    preprocessing: Preprocessing
    cube: torch.Tensor  # (H, W, n_bands), normalised, on the device
    model: PatchClassifier
    recipe: engine.TrainConfig
    augmentation: Augmentation
    ranks: Ranks  # the processes that share each batch
    surroundings: Surroundings | None = None  # for the context of the class probabilities

    @property
    def raw_cube(self) -> np.ndarray:
        """The cube as read, (H, W, n_bands) float32."""
        assert self.scene.cube is not None  # `prepare` takes a scene with its cube
        return self.scene.cube

    @property
    def uses_graphs(self) -> bool:
        """Whether training steps are launched as CUDA graphs: on one GPU, with AdamW and one cycle, without noise."""
        noise = self.augmentation.radiation or self.augmentation.mixture
        usual = (self.recipe.optimiser, self.recipe.schedule) == ("adamw", "one_cycle") and not self.whole_scene
        return self.cube.is_cuda and self.ranks.world == 1 and usual and not noise

    @property
    def whole_scene(self) -> bool:
        """Whether the network looks at the whole scene at once."""
        return isinstance(self.model, SceneClassifier)

    @property
    def trained(self) -> bool:
        """Whether the network is trained in epochs; else it is fitted at once."""
        return MODELS[self.config.model].trained

    def false_colour(self) -> np.ndarray:
        """Give the scene in false colour, (H, W, 3) uint8."""
        assert self.scene.spec.rgb_bands is not None  # known once the cube has been read
        return false_colour(self.raw_cube, self.scene.spec.rgb_bands)

    @property
    def batch_size(self) -> int:
        """Patches per training step, at most; a network that looks at the whole scene takes all pixels."""
        return self.split.n_train if self.whole_scene else self.config.batch_size

    def loader(self, mask: np.ndarray, **options) -> PatchLoader:
        """Patches and targets of a label map."""
        pixels, targets = labelled_pixels(torch.tensor(mask))
        sizes = {"patch_size": self.config.patch_size, "batch_size": self.batch_size}
        return PatchLoader(self.cube.permute(2, 0, 1), pixels, targets, **sizes, **options)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of what the result rests on, as read and as used."""
        return {
            "cube": fingerprint(self.raw_cube),
            "ground_truth": fingerprint(self.scene.gt),
            "masks": self.masks,
            "split": self.split.fingerprint,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the network and its context, in sentences."""
        said = (WHOLE_SCENE,) if self.whole_scene else ()
        said += self._lost_by_pretreatment
        if self.surroundings is None:
            return said
        size, folds = self.config.context_size, self.config.sampling_mode in WITH_FOLDS
        near = (self.config.buffer or self.config.patch_size) if folds else 0
        return (
            *said,
            f"the class probabilities are averaged over windows of {size} x {size}, weighted by place and by spectrum: "
            "the spectra around a test pixel are used, and no labels"
            + (f"; pixels nearer than {near} to a training pixel do not count" if near else ""),
        )

    @cached_property
    def _lost_by_pretreatment(self) -> tuple[str, ...]:
        """Say so if the classes differ by what the pre-treatment takes away, brightness above all."""
        treatment, places = self.preprocessing, MODELS[self.config.model].looks_at == "location"
        if treatment.pretreatment is None or treatment.components is not None or places:
            return ()
        trained = self.split.train > 0
        labels = self.split.train[trained]
        before = nearest_mean_recall(self.raw_cube[trained], labels)
        after = nearest_mean_recall(self.cube[torch.from_numpy(trained)].cpu().numpy(), labels)
        if before - after < LOST:
            return ()
        return (
            f"--spectral {self.config.spectral} takes away what the classes differ by: their mean spectra tell "
            f"{100 * before:.0f} % of the training pixels apart before it, and {100 * after:.0f} % after; compare with "
            "--spectral snv,brightness and --spectral none",
        )

    @property
    def context(self) -> dict | None:
        """The context's settings for the protocol."""
        if self.surroundings is None:
            return None
        context = self.surroundings.context
        facts = {"kind": self.config.context, "size": context.size}
        return facts | {"spread": context.spread, "similarity": context.similarity}

    @cached_property
    def protocol(self) -> dict:
        """What a reader must know to compare the result with another; made once, when the run starts."""
        config, split = self.config, self.split
        return {
            "scene": self.scene.spec.name,
            "fingerprints": self.fingerprints(),
            "split": split.method,
            "notes": (*self.scene.notes, *split.notes, *self.notes),
            "val_fraction": config.val_fraction,
            "n_validation": split.n_validation,
            "spectral": config.spectral,
            "normalize": config.normalize,
            "fit_on": config.fit_on,
            "pca": config.pca,
            "context": self.context,
            "border": config.border,
            "border_test_pixels_skipped": split.border_skipped,
            "guard_pixels_dropped": split.buffer_dropped,
            "unlearned_test_pixels_dropped": split.unlearned_dropped,
            "single_region_pixels_dropped": split.single_region_dropped,
            "audit": brief(split, self.raw_cube, config.window),
            "model": model_facts(config.model, self.model),
            "recipe": asdict(self.recipe) if self.trained else {"epochs": 0},
            "augmentation": asdict(self.augmentation) if self.trained else {},
            "batch_size": self.batch_size if self.trained else None,
            "processes": self.ranks.world if self.trained else 1,
            "seed": config.seed,
            "weights": config.eval_weights,
            "test_stride": config.test_stride,
            "restored_from": config.restore,
            "machine": describe_machine(self.cube.device, GRAPHS if self.uses_graphs else EAGER),
        }


def prepare(
    config: RunConfig,
    scene: Scene,
    device: torch.device,
    normalised: dict | None = None,
    ranks: Ranks | None = None,
) -> Job:
    """Settle split, normalisation and model; what can be wrong is found here, before a file is written.

    Args:
        config: the settings; the seed is that of split, weights, order and augmentation.
        scene: with its cube.
        device: to run on.
        normalised: of the same scene and device, kept between runs that share them; filled here.
        ranks: the processes that share each batch; None for this one alone.
    Raises:
        InputError: anything that does not fit.
    """
    assert scene.cube is not None
    height, width, _ = scene.cube.shape
    check_window(config, height, width)
    seed_everything(config.seed)
    rng = np.random.default_rng(config.seed)
    split = make_split(config, scene, rng)
    masks = split.fingerprint
    if config.val_fraction:
        split = hold_out(split, config.val_fraction, rng)
    if config.border == "skip":
        split = skip_border(split, config.patch_size // 2)
    preprocessing, cube = _normalise(config, scene, split, device, {} if normalised is None else normalised)
    surroundings = _surroundings(config, preprocessing, cube, scene.valid, split)
    if MODELS[config.model].looks_at == "location":
        cube = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).float()
        cube = cube.to(device)
    sizes = {"n_bands": cube.shape[2], "n_classes": split.n_classes, "patch_size": config.patch_size}
    try:
        model = create_model(config.model, **sizes, **config.model_options).to(device)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_backend(model, device)
    check_memory(model, height, width, device, training=True)
    if config.restore is not None:
        restore_weights(model, config.model, config.restore)
    ranks = ranks or Ranks()
    if isinstance(model, SceneClassifier):
        check_whole_scene(config, ranks)
    elif MODELS[config.model].trained:
        check_batches(config, model, split.n_train, ranks)
    weights = None
    if config.class_balancing:
        weights = class_weights(labelled_pixels(torch.from_numpy(split.train))[1], split.n_classes)
    recipe = engine.TrainConfig(
        config.epoch,
        optimiser=config.optimiser,
        schedule=config.schedule,
        lr=config.lr,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        precision=config.precision,
        class_weights=weights,
    )
    augmentation = Augmentation(config.flip_augmentation, config.radiation_augmentation, config.mixture_augmentation)
    return Job(config, scene, split, masks, preprocessing, cube, model, recipe, augmentation, ranks, surroundings)


def _surroundings(
    config: RunConfig, preprocessing: Preprocessing, cube: torch.Tensor, valid: np.ndarray | None, split: Split
) -> Surroundings | None:
    """Fit the context that the settings ask for to the normalised cube, and settle which pixels count in it."""
    if config.context == "none":
        return None
    cube, weight = cube.cpu(), None
    if preprocessing.components is not None:  # whitened: each component has the norm of its inverse deviation
        weight = torch.from_numpy(1 / np.linalg.norm(preprocessing.components, axis=0))
    counts = None if valid is None else torch.from_numpy(valid)
    fitted_on = torch.from_numpy(split.train > 0) if config.fit_on == "train" else counts
    context = fit_context(config.context_size, cube, fitted_on, weight)
    counts = torch.ones(cube.shape[:2], dtype=torch.bool) if counts is None else counts.clone()
    if config.border == "skip" and (margin := config.patch_size // 2):
        counts[:margin] = counts[-margin:] = counts[:, :margin] = counts[:, -margin:] = False
    if config.sampling_mode in WITH_FOLDS:
        learned = split.train if split.validation is None else split.train + split.validation
        counts &= torch.from_numpy(distance_to(learned) >= (config.buffer or config.patch_size))
    return Surroundings(context, context.features(cube), counts)


def _normalise(config, scene: Scene, split: Split, device: torch.device, kept: dict):
    """Give preprocessing and the normalised cube, (H, W, n_bands) on the device; made once for consecutive runs.

    Where no spectrum is looked at the cube is as read.
    """
    assert scene.cube is not None
    n_bands = scene.cube.shape[2]
    if "spectral" in without_effect(config.model, config.context):
        none = np.zeros(n_bands, np.float32), np.ones(n_bands, np.float32)
        return Preprocessing("none", config.fit_on, *none), torch.from_numpy(scene.cube)
    if MODELS[config.model].looks_at != "location":
        check_bands(config, n_bands)
    settings = (config.spectral, config.normalize, config.fit_on, config.pca)
    settings += (split.fingerprint if config.fit_on == "train" else None,)
    if settings not in kept:
        kept.clear()  # one at a time: a cube is large
        try:
            preprocessing = fit_preprocessing(
                scene.cube,
                split.train,
                spectral=config.spectral,
                wavelengths=scene.spec.wavelengths,
                normalize=config.normalize,
                fit_on=config.fit_on,
                n_components=config.pca,
                valid=scene.valid,
            )
        except InputError as error:
            raise pca_refused(config, error) from error
        cube = preprocessing(scene.cube, scene.valid)
        kept[settings] = preprocessing, torch.from_numpy(cube).to(device)
    return kept[settings]


def announce(job: Job) -> None:
    """Log what the runs rest on."""
    split = job.split
    sizes = (split.n_train, split.n_test, split.n_classes)
    log.info("split: %s; %d training and %d test pixels, %d classes", split.method, *sizes)
    if split.validation is not None:
        log.info("validation: %d of the labelled pixels, taken out of the training pixels", split.n_validation)
    for note in (*split.notes, *job.notes):
        log.info("note: %s", note)
    log.info("%s", brief_sentence(job.protocol["audit"], windows=not job.whole_scene))


def write_config(job: Job, folder: Path) -> None:
    """Write config.json, with which an interrupted run can be prepared again."""
    results.write_json(folder / "config.json", {"config": job.config.as_json(), "protocol": job.protocol})
