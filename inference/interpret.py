"""Record and draw a trained network's activations: features, scan orders, decay masks and token attention."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor, nn

import mapping
from models.base import PatchClassifier
from models.options import MiMOptions
from models.scan_order import cross_scan_orders
from models.t_mamba import MiMBlock, TMamba, as_modules
from patches import PatchLoader
from reporting.figures import network
from reporting.run_folder import Run
from training.checkpoint import Checkpoint
from utils import InputError, fingerprint

N_PIXELS = 2000  # test pixels whose features, masks and attention are recorded, at most
PERPLEXITY = 30.0
log = logging.getLogger("mim")


@dataclass(frozen=True)
class BlockActivations:
    """What a MiM block does with some patches; None for what it lacks: a single token has no mask.

    Attributes:
        name: its place in the network and its token grids.
        scan_weights: softmax(k), (n_types,), in the order of the model's scan types.
        index_factor: the decay mask's factor by index along one sequence, whose centre token is at `centre`, (L,).
        decay_curve: the whole mask along one sequence, the mean of patches, types and both directions, (L,).
        centre: index of the centre token in these.
        decay: the whole mask on the token grid, (n_types, grid, grid): the mean over the patches, and over the
            directions that pass the position.
        attention: weight of each grid position in each token, (K, S, grid, grid): the mean over the patches of a class
            and over the types; its sum over the grid is 1, NaN for a class without patches.
    """

    name: str
    scan_weights: np.ndarray | None
    index_factor: np.ndarray | None
    decay_curve: np.ndarray | None
    centre: int
    decay: np.ndarray | None
    attention: np.ndarray | None


@dataclass(frozen=True)
class Activations:
    """What a network does with some patches.

    Attributes:
        features: input of the last head, (n, dim).
        logits: its output, (n, K).
        blocks: of a MiM network, first to last; () for another network.
    """

    features: np.ndarray
    logits: np.ndarray
    blocks: tuple[BlockActivations, ...]


def draw_pixels(mask: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw labelled pixels, as evenly over the classes as their numbers allow.

    Args:
        mask: (H, W) labels 1..K, 0 = none.
        n: pixels to draw, at most.
        rng: draws them.
    Returns:
        (n, 2) int64 rows and columns, class by class, and their targets 0..K-1, (n,).
    """
    classes = {label: np.argwhere(mask == label) for label in np.unique(mask[mask > 0]).tolist()}
    quota, left = {}, n
    for rank, label in enumerate(sorted(classes, key=lambda label: len(classes[label]))):  # what a small class leaves
        quota[label] = min(len(classes[label]), left // (len(classes) - rank))  # goes to the larger ones
        left -= quota[label]
    drawn = [rng.permutation(pixels)[: quota[label]] for label, pixels in classes.items()]
    targets = np.repeat([label - 1 for label in classes], [quota[label] for label in classes])
    return np.concatenate(drawn).astype(np.int64), targets.astype(np.int64)


def last_head(model: PatchClassifier) -> nn.Linear:
    """Give the linear layer whose logits come last: the one of the last scale, or of all scales' features."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def record_activations(model: PatchClassifier, cube: Tensor, pixels: np.ndarray, targets: np.ndarray) -> Activations:
    """Run a network over some patches and record its activations; the network itself does not change.

    Args:
        model: the network.
        cube: normalised scene, (H, W, n_bands), on its device.
        pixels, targets: rows and columns (n, 2), and classes 0..K-1 (n,).
    """
    features, logits = [], []

    def record(_, inputs, output):
        features.append(inputs[0])
        logits.append(output)

    handles = [last_head(model).register_forward_hook(record)]
    recorders = [
        _BlockRecorder(block, model.n_classes, handles) for block in model.modules() if isinstance(block, MiMBlock)
    ]
    try:
        with as_modules(model), mapping.inference(model, cube.device, "float32"):
            embedded = model.embed(cube.permute(2, 0, 1).unsqueeze(0))[0]
            loader = PatchLoader(
                embedded,
                torch.from_numpy(pixels),
                torch.from_numpy(targets),
                patch_size=model.patch_size,
                batch_size=mapping.predict_batch(model.patch_size, cube.device),
            )
            for patches, batch_targets in loader:
                for recorder in recorders:
                    recorder.targets = batch_targets
                model.encode(patches)
    finally:
        for handle in handles:
            handle.remove()
    blocks = tuple(recorder.activations(f"block {i}") for i, recorder in enumerate(recorders, start=1))
    return Activations(torch.cat(features).cpu().numpy(), torch.cat(logits).cpu().numpy(), blocks)


class _BlockRecorder:
    """Sums the decay masks and the token attention of a block over patches, batch by batch, on the token grid."""

    def __init__(self, block: MiMBlock, n_classes: int, handles: list):
        self.block, self.n_classes = block, n_classes
        self.mixers = [mixer for mixer in block.mixers if isinstance(mixer, TMamba)]
        first = self.mixers[0]
        self.length = first.raster_order.numel() // first.n_types
        self.types = sum(mixer.n_types for mixer in self.mixers)
        self.decay = torch.zeros(self.types, self.length, dtype=torch.float64)
        self.passes = torch.zeros(self.types, self.length, dtype=torch.float64)  # masks summed at a position
        self.curve, self.n_curves = torch.zeros((), dtype=torch.float64), 0
        self.attention = torch.zeros((), dtype=torch.float64)
        self.n_each = torch.zeros(n_classes, dtype=torch.float64)
        self.targets: Tensor | None = None  # of the batch
        start = 0
        for mixer in self.mixers:
            for branch, order in (
                (mixer.forward_branch, mixer.forward_order),
                (mixer.backward_branch, mixer.backward_order),
            ):
                handles.append(branch.register_forward_hook(self._masks(mixer, order, start)))
            if mixer.learned:
                handles.append(mixer.learner.attention.register_forward_hook(self._attention(mixer)))
            start += mixer.n_types

    def _masks(self, mixer: TMamba, order: Tensor, start: int) -> Callable:
        def record(_, __, y):  # y (B t, n, C), what the decay mask weighs
            weights = mixer.decay.weights(y).squeeze(-1).expand(y.shape[:2]).double().cpu()
            weights = weights.unflatten(0, (-1, mixer.n_types))
            places = order.cpu().view(mixer.n_types, -1)
            self.decay[start : start + mixer.n_types].scatter_add_(1, places, weights.sum(0))
            counts = torch.full(places.shape, float(len(weights)), dtype=torch.float64)
            self.passes[start : start + mixer.n_types].scatter_add_(1, places, counts)
            self.curve, self.n_curves = self.curve + weights.sum((0, 1)), self.n_curves + weights[..., 0].numel()

        return record

    def _attention(self, mixer: TMamba) -> Callable:
        def record(_, __, y):  # y (B, t, L, C), in scan order
            attention = mixer.learner.token_attention(y).flatten(1, 2).index_select(1, mixer.raster_order)
            attention = attention.unflatten(1, (mixer.n_types, -1)).sum(1).double().cpu()  # (B, L, S)
            assert self.targets is not None
            targets = self.targets.cpu()
            sums = attention.new_zeros(self.n_classes, *attention.shape[1:]).index_add_(0, targets, attention)
            self.attention = self.attention + sums
            if mixer is self.mixers[0]:
                self.n_each += torch.bincount(targets, minlength=self.n_classes)

        return record

    def activations(self, name: str) -> BlockActivations:
        """The means over all patches so far."""
        mixer, side = self.mixers[0], round(self.length**0.5)
        k, mask = self.block.fusion.k, mixer.decay
        side_out = round(len(mixer.pool.pool_weights) ** 0.5)
        masked = side > 1 and (mask.by_feature or bool((mask.index_weight < 1).any()))
        attention = None
        if mixer.learned:
            mean = self.attention / (self.types * self.n_each.view(-1, 1, 1))  # NaN without patches
            attention = mean.transpose(1, 2).unflatten(-1, (side, side)).numpy()
        return BlockActivations(
            f"{name}, {side} x {side} to {side_out} x {side_out}",
            None if k is None else k.detach().double().softmax(0).cpu().numpy(),
            mask.index_weight.squeeze(-1).double().cpu().numpy() if masked else None,
            (self.curve / self.n_curves).numpy() if masked else None,
            mask.centre,
            (self.decay / self.passes).unflatten(-1, (side, side)).numpy() if masked else None,
            attention,
        )


def scan_paths(patch_size: int, scan_types: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Give the path of each scan type over the patch, (P * P, 2) rows and columns in scan order, by type."""
    orders = cross_scan_orders(patch_size)[[scan_type - 1 for scan_type in scan_types]].numpy()
    return {t: np.stack(np.divmod(order, patch_size), 1) for t, order in zip(scan_types, orders, strict=True)}


def place_features(features: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Embed features in the plane by t-SNE.

    Args:
        features: (n, dim), n at least 4.
        seed: of the initial embedding if it is random; the same seed gives the same picture.
    Returns:
        Places, (n, 2), and the perplexity that was used: PERPLEXITY, or less if there are few features.
    Source: van der Maaten and Hinton 2008, as implemented in scikit-learn.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    spread = np.linalg.matrix_rank(features - features.mean(0)) >= 2
    tsne = TSNE(perplexity=perplexity, init="pca" if spread else "random", random_state=seed, n_jobs=1)
    return tsne.fit_transform(features), perplexity


def draw_interpretation(run: Run, cube: np.ndarray, valid: np.ndarray | None, device: torch.device, seed: int) -> Path:
    """Draw the activations of a finished run's network into RUN/figures.

    Args:
        run: the run.
        cube, valid: of its scene, see `datasets.Scene`.
        device: to compute on.
        seed: of the drawn test pixels and of t-SNE.
    Returns:
        The folder of the figures.
    Raises:
        InputError: another scene than the run's, or a checkpoint that is missing.
    """
    if fingerprint(cube) != run.protocol["fingerprints"]["cube"]:
        raise InputError(f"{run.folder}: the scene has changed since the run; name the folder with the run's scene")
    if not run.records:
        raise InputError(f"{run.folder}: {run.model} is fitted at once and has no layers to look into")
    model, preprocessing = Checkpoint.load(run.folder / f"{run.protocol['weights']}.pt").network(device)
    cube = preprocessing(cube, valid)
    pixels, targets = draw_pixels(run.maps["test"], N_PIXELS, np.random.default_rng(seed))
    activations = record_activations(model, torch.from_numpy(cube).to(device), pixels, targets)
    home = run.folder / "figures"
    home.mkdir(exist_ok=True)
    where = f"{run.model} on {run.scene}"
    of = f"{where}, mean of {len(pixels):,} test pixels"
    classes, blocks, left_out = (run.class_names, run.palette), activations.blocks, {}
    if len(pixels) < 4:
        left_out["features"] = "there are fewer than four test pixels"
    else:
        places, perplexity = place_features(activations.features, seed)
        network.save_features(home / "features", places, targets, *classes, perplexity, f"{where}: features")
    options, scan_types = model.options, ()
    if isinstance(options, MiMOptions):
        scan_types = options.scan_types
        paths = scan_paths(model.patch_size, scan_types)
        network.save_scan_orders(home / "scan_orders", paths, options.scan == "halves", where)
    else:
        left_out["scan_orders"] = f"{run.model} has no scan orders that end at the centre"
    if any(block.scan_weights is not None for block in blocks):
        network.save_scan_weights(home / "scan_weights", blocks, scan_types, where)
    else:
        left_out["scan_weights"] = "no weights of scan types are learned"
    if any(block.decay is not None for block in blocks):
        network.save_decay(home / "decay_masks", blocks, scan_types, of)
    else:
        left_out["decay_masks"] = "there is no decay mask"
    if any(block.attention is not None for block in blocks):
        weights = np.bincount(targets, minlength=model.n_classes) / len(targets)
        network.save_attention(home / "token_attention", blocks, weights, of)
        network.save_attention_by_class(home / "token_attention_by_class", blocks, run.class_names, where)
    else:
        left_out["token_attention"] = "no tokens are learned"
    for name, reason in left_out.items():
        log.info("%s is left out: %s", name, reason)
    return home
