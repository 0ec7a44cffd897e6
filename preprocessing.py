"""Normalisation and band reduction: fitted once, kept with the model, applied to any scene with the same bands."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA

from utils import InputError

NORMALIZATIONS = ("zscore", "minmax", "none")
FIT_ON = ("scene", "train")
NO_VARIANCE = 1e-10  # of the first component's; whitening would blow up what is only rounding


@dataclass(frozen=True)
class Preprocessing:
    """x -> (x - offset) * scale, and then, with components, -> (x - mean) @ components.

    Attributes:
        normalize: one of NORMALIZATIONS.
        fit_on: on which pixels it was fitted, one of FIT_ON.
        offset, scale: per band, (n_bands,) float32.
        mean, components: (n_bands,) and (n_bands, n_components) float32, or None without band reduction.
    """

    normalize: str
    fit_on: str
    offset: np.ndarray
    scale: np.ndarray
    mean: np.ndarray | None = None
    components: np.ndarray | None = None

    @property
    def n_bands_in(self) -> int:
        """Bands that a cube must have."""
        return len(self.offset)

    @property
    def n_bands_out(self) -> int:
        """Bands that the model sees."""
        return self.n_bands_in if self.components is None else self.components.shape[1]

    def __call__(self, cube: np.ndarray) -> np.ndarray:
        """Apply to a cube, (..., n_bands_in) to (..., n_bands_out) float32."""
        out = np.subtract(cube, self.offset, dtype=np.float32)
        out *= self.scale
        return out if self.components is None else (out - self.mean) @ self.components

    def state(self) -> dict:
        """Everything as plain values and tensors, for a checkpoint."""
        values = vars(self)
        return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}

    @classmethod
    def from_state(cls, state: dict) -> "Preprocessing":
        """Undo `state`."""
        return cls(**{name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in state.items()})


def fit_preprocessing(
    cube: np.ndarray,
    train: np.ndarray,
    *,
    normalize: str = "zscore",
    fit_on: str = "scene",
    n_components: int = 0,
    valid: np.ndarray | None = None,
) -> Preprocessing:
    """Fit normalisation and, if asked, a principal component analysis.

    Args:
        cube: (H, W, n_bands) float32.
        train: training pixels, (H, W), not 0 there.
        normalize: zscore (mean 0, standard deviation 1 per band), minmax (0 to 1 per band), or none.
        fit_on: all pixels of the scene (sees the test pixels' spectra, not their labels), or the training pixels alone.
        n_components: principal components to keep, whitened; 0 keeps the bands.
        valid: pixels with data, (H, W) bool, the others being left out of the scene; None where all have.
    Raises:
        InputError: a band that is constant on those pixels, or more components than vary there.
    """
    everywhere = cube.reshape(-1, cube.shape[2]) if valid is None else cube[valid]
    spectra = everywhere if fit_on == "scene" else cube[train > 0]
    n_bands = spectra.shape[1]
    low, high = spectra.min(0), spectra.max(0)
    constant = np.flatnonzero(low == high)
    if len(constant) and normalize != "none":
        bands = ", ".join(map(str, constant[:10])) + (", ..." if len(constant) > 10 else "")
        where = "the whole scene" if fit_on == "scene" else "the training pixels"
        raise InputError(
            f"{len(constant)} of the {n_bands} bands are constant over {where} (counted from 0: {bands}); they carry "
            "nothing: drop them from the cube, or use --normalize none"
        )
    if normalize == "zscore":
        offset, scale = spectra.mean(0, dtype=np.float64), 1 / spectra.std(0, dtype=np.float64)
    elif normalize == "minmax":
        offset, scale = low.astype(np.float64), 1 / (high.astype(np.float64) - low)
    else:
        offset, scale = np.zeros(n_bands), np.ones(n_bands)
    fitted = Preprocessing(normalize, fit_on, offset.astype(np.float32), scale.astype(np.float32))
    if not n_components:
        return fitted
    limit = min(spectra.shape)
    refusal = f"--pca {n_components}: at most {{}} components vary on the {len(spectra)} pixels that they are fitted on"
    if not 1 <= n_components <= limit or len(spectra) < 2:
        raise InputError(refusal.format(limit if len(spectra) > 1 else 0) + "; lower it")
    pca = PCA(n_components, whiten=True, svd_solver="covariance_eigh").fit(fitted(spectra).astype(np.float64))
    varying = int((pca.explained_variance_ > NO_VARIANCE * pca.explained_variance_[0]).sum())
    if varying < n_components:
        raise InputError(refusal.format(varying) + "; lower it")
    components = (pca.components_ / np.sqrt(pca.explained_variance_)[:, None]).T
    return Preprocessing(
        normalize,
        fit_on,
        fitted.offset,
        fitted.scale,
        pca.mean_.astype(np.float32),
        np.ascontiguousarray(components, dtype=np.float32),
    )
