"""What goes on inside a trained network: features, scan orders, decay masks and token attention, as arrays."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor, nn

import engine
from models import PatchClassifier
from models.scan_order import cross_scan_orders
from models.t_mamba import MiMBlock, TMamba
from patches import PatchLoader
from reporting.figures import network
from reporting.run_folder import Run
from training.checkpoint import load_trained
from utils import InputError, fingerprint

N_PIXELS = 2000  # test pixels that features, masks and attention are of, at most
PERPLEXITY = 30.0
log = logging.getLogger("mim")


@dataclass(frozen=True)
class BlockInside:
    """What a MiM block does with the patches that were looked at; None for what it has not: a single token has no mask.

    Attributes:
        name: its place in the network and its token grids.
        scan_weights: softmax(k), (n_types,), in the order of the model's scan types.
        index_factor: the decay mask's factor by index along one sequence, whose centre token is at `centre`, (L,).
        decay_curve: the whole mask along one sequence, the mean of patches, types and both directions, (L,).
        centre: index of the centre token in these.
        decay: the whole mask laid back onto the token grid, (n_types, grid, grid): the mean over the patches, and over
            the directions that pass the position.
        attention: share of each grid position in each token, (K, S, grid, grid): the mean over the patches of a class
            and over the types; 1 in sum over the grid, NaN for a class without patches.
    """

    name: str
    scan_weights: np.ndarray | None
    index_factor: np.ndarray | None
    decay_curve: np.ndarray | None
    centre: int
    decay: np.ndarray | None
    attention: np.ndarray | None


@dataclass(frozen=True)
class Insides:
    """What a network does with some patches.

    Attributes:
        features: input of the last head, (n, dim).
        logits: its output, (n, K).
        blocks: of a MiM network, first to last; () for another.
    """

    features: np.ndarray
    logits: np.ndarray
    blocks: tuple[BlockInside, ...]


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
    """The linear layer whose logits come last: the one of the last scale, or of all scales' features."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def look_inside(model: PatchClassifier, cube: Tensor, pixels: np.ndarray, targets: np.ndarray) -> Insides:
    """Run a network over some patches and note what goes on in it; the network is left as it was found.

    Args:
        model: the network.
        cube: normalised scene, (H, W, n_bands), on its device.
        pixels, targets: rows and columns (n, 2), and classes 0..K-1 (n,).
    """
    features, logits = [], []

    def note(head, given, out):
        features.append(given[0])
        logits.append(out)

    handles = [last_head(model).register_forward_hook(note)]
    watchers = [
        _BlockWatcher(block, model.n_classes, handles) for block in model.modules() if isinstance(block, MiMBlock)
    ]
    try:
        with engine.inference(model, cube.device, "float32"):
            embedded = model.embed(cube.permute(2, 0, 1).unsqueeze(0))[0]
            batch_size = engine.predict_batch(model.patch_size, cube.device)
            sizes = {"patch_size": model.patch_size, "batch_size": batch_size}
            for patches, batch_targets in PatchLoader(
                embedded, torch.from_numpy(pixels), torch.from_numpy(targets), **sizes
            ):
                for watcher in watchers:
                    watcher.targets = batch_targets
                model.encode(patches)
    finally:
        for handle in handles:
            handle.remove()
    blocks = tuple(watcher.inside(f"block {i}") for i, watcher in enumerate(watchers, start=1))
    return Insides(torch.cat(features).cpu().numpy(), torch.cat(logits).cpu().numpy(), blocks)


class _BlockWatcher:
    """Sums up the masks and shares of a block's patches, batch by batch, laid back onto the token grid."""

    def __init__(self, block: MiMBlock, n_classes: int, handles: list):
        self.block, self.mixers, self.n_classes = block, list(block.mixers), n_classes
        first = self.mixers[0]
        self.length = first.raster_order.numel() // first.n_types
        self.types = sum(mixer.n_types for mixer in self.mixers)
        self.decay = torch.zeros(self.types, self.length, dtype=torch.float64)
        self.passes = torch.zeros(self.types, self.length, dtype=torch.float64)  # how many masks are summed up there
        self.curve, self.n_curves = 0.0, 0
        self.shares, self.n_each, self.targets = 0.0, torch.zeros(n_classes, dtype=torch.float64), None
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
        def note(module, given, y):  # y (B t, n, C), what the decay mask weighs
            weights = mixer.decay.weights(y).squeeze(-1).expand(y.shape[:2]).double().cpu()
            weights = weights.unflatten(0, (-1, mixer.n_types))
            places = order.cpu().view(mixer.n_types, -1)
            self.decay[start : start + mixer.n_types].scatter_add_(1, places, weights.sum(0))
            counts = torch.full(places.shape, float(len(weights)), dtype=torch.float64)
            self.passes[start : start + mixer.n_types].scatter_add_(1, places, counts)
            self.curve, self.n_curves = self.curve + weights.sum((0, 1)), self.n_curves + weights[..., 0].numel()

        return note

    def _attention(self, mixer: TMamba) -> Callable:
        def note(module, given, y):  # y (B, t, L, C), in scan order
            shares = mixer.learner.shares(y).flatten(1, 2).index_select(1, mixer.raster_order)
            shares = shares.unflatten(1, (mixer.n_types, -1)).sum(1).double().cpu()  # (B, L, S)
            targets = self.targets.cpu()
            sums = shares.new_zeros(self.n_classes, *shares.shape[1:]).index_add_(0, targets, shares)
            self.shares = self.shares + sums
            if mixer is self.mixers[0]:
                self.n_each += torch.bincount(targets, minlength=self.n_classes)

        return note

    def inside(self, name: str) -> BlockInside:
        mixer, side = self.mixers[0], round(self.length**0.5)
        k, mask = self.block.fusion.k, mixer.decay
        side_out = round(len(mixer.pool.shares) ** 0.5)
        masked = side > 1 and (mask.by_feature or bool((mask.index_weight < 1).any()))
        attention = None
        if mixer.learned:
            mean = self.shares / (self.types * self.n_each.view(-1, 1, 1))  # NaN without patches
            attention = mean.transpose(1, 2).unflatten(-1, (side, side)).numpy()
        return BlockInside(
            f"{name}, {side} x {side} to {side_out} x {side_out}",
            None if k is None else k.detach().double().softmax(0).cpu().numpy(),
            mask.index_weight.squeeze(-1).double().cpu().numpy() if masked else None,
            (self.curve / self.n_curves).numpy() if masked else None,
            mask.centre,
            (self.decay / self.passes).unflatten(-1, (side, side)).numpy() if masked else None,
            attention,
        )


def scan_paths(patch_size: int, scan_types: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Give the way of each scan type over the patch, (P * P, 2) rows and columns in scan order, by type."""
    orders = cross_scan_orders(patch_size)[[scan_type - 1 for scan_type in scan_types]].numpy()
    return {t: np.stack(np.divmod(order, patch_size), 1) for t, order in zip(scan_types, orders, strict=True)}


def place_features(features: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Lay features out in the plane by t-SNE.

    Args:
        features: (n, dim), n at least 4.
        seed: of the start where it is random; the same seed gives the same picture.
    Returns:
        Places, (n, 2), and the perplexity that was used: PERPLEXITY, or less where there are few.
    Source: van der Maaten and Hinton 2008, as scikit-learn has it.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    spread = np.linalg.matrix_rank(features - features.mean(0)) >= 2
    tsne = TSNE(perplexity=perplexity, init="pca" if spread else "random", random_state=seed, n_jobs=1)
    return tsne.fit_transform(features), perplexity


def draw_insides(run: Run, cube: np.ndarray, valid: np.ndarray | None, device: torch.device, seed: int) -> Path:
    """Draw the inside of a finished run's network into RUN/figures.

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
        raise InputError(f"{run.folder}: the scene has changed since the run; give --folder where its scene is")
    model, preprocessing, _ = load_trained(run.folder / f"{run.protocol['weights']}.pt", device)
    cube = preprocessing(cube, valid)
    pixels, targets = draw_pixels(run.maps["test"], N_PIXELS, np.random.default_rng(seed))
    insides = look_inside(model, torch.from_numpy(cube).to(device), pixels, targets)
    home = run.folder / "figures"
    home.mkdir(exist_ok=True)
    where = f"{run.model} on {run.scene}"
    of = f"{where}, mean of {len(pixels):,} test pixels"
    classes, blocks, left_out = (run.class_names, run.palette), insides.blocks, {}
    if len(pixels) < 4:
        left_out["features"] = "there are fewer than four test pixels"
    else:
        places, perplexity = place_features(insides.features, seed)
        network.save_features(home / "features", places, targets, *classes, perplexity, f"{where}: features")
    if blocks:
        paths, halves = scan_paths(model.patch_size, model.options.scan_types), model.options.scan == "halves"
        network.save_scan_orders(home / "scan_orders", paths, halves, where)
    else:
        left_out["scan_orders"] = f"{run.model} does not scan"
    if any(block.scan_weights is not None for block in blocks):
        network.save_scan_weights(home / "scan_weights", blocks, model.options.scan_types, where)
    else:
        left_out["scan_weights"] = "no weights of scan types are learned"
    if any(block.decay is not None for block in blocks):
        network.save_decay(home / "decay_masks", blocks, model.options.scan_types, of)
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
