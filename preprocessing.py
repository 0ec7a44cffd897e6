"""Normalise and reduce bands: fitted once, kept with the model, applied to any scene with the same bands.

The command line needs the names below before anything else: PyTorch and scikit-learn are imported where they are used.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils import InputError

NORMALIZATIONS = ("zscore", "minmax", "none")
FIT_ON = ("scene", "train")
NO_VARIANCE = 1e-10  # as a fraction of the first component's variance; whitening would magnify rounding errors


@dataclass(frozen=True)
class Preprocessing:
    """Apply x -> (x - offset) * scale and, with components, then x -> (x - mean) @ components.

    Attributes:
        normalize: one of NORMALIZATIONS.
        fit_on: the pixels that it was fitted on, one of FIT_ON.
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

    def __call__(self, cube: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Apply to a cube.

        Args:
            cube: (..., n_bands_in).
            valid: pixels with data, (...) bool; the others become 0. None if all pixels have data.
        Returns:
            (..., n_bands_out) float32.
        """
        out = np.subtract(cube, self.offset, dtype=np.float32)
        out *= self.scale
        if self.components is not None:
            out = (out - self.mean) @ self.components
        if valid is not None:
            out[~valid] = 0
        return out

    def state(self) -> dict:
        """Return all attributes as plain values and tensors, for a checkpoint."""
        import torch

        values = vars(self)
        return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}

    @classmethod
    def from_state(cls, state: dict) -> "Preprocessing":
        """Restore from the values of `state`."""
        values: dict[str, Any] = {name: v.numpy() if hasattr(v, "numpy") else v for name, v in state.items()}
        return cls(**values)


def fit_preprocessing(
    cube: np.ndarray,
    train: np.ndarray,
    *,
    normalize: str = "zscore",
    fit_on: str = "scene",
    n_components: int = 0,
    valid: np.ndarray | None = None,
) -> Preprocessing:
    """Fit the normalisation and, if n_components is not 0, a principal component analysis.

    Args:
        cube: (H, W, n_bands) float32.
        train: (H, W), not 0 on the training pixels.
        normalize: zscore (mean 0, standard deviation 1 per band), minmax (0 to 1 per band), or none.
        fit_on: "scene", all pixels (the test pixels' spectra, not their labels, are used too), or "train", the training
            pixels alone.
        n_components: principal components to keep, whitened; 0 keeps the bands.
        valid: pixels with data, (H, W) bool; the others are not fitted on. None if all pixels have data.
    Raises:
        InputError: a band that is constant on those pixels, or more components than vary on them.
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
            "no information: drop them from the cube, or use normalize none"
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
    refusal = f"pca {n_components}: at most {{}} components vary on the {len(spectra)} pixels that they are fitted on"
    if not 1 <= n_components <= limit or len(spectra) < 2:
        raise InputError(refusal.format(limit if len(spectra) > 1 else 0) + "; lower it")
    from sklearn.decomposition import PCA

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
