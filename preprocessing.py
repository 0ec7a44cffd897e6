"""Pre-treat spectra, normalise and reduce bands: fitted once, kept with the model, applied to any scene alike.

The command line needs the names below before anything else: PyTorch and scikit-learn are imported where they are used.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretreatment import Pretreatment, fit_pretreatment
from utils import InputError

NORMALIZATIONS = ("zscore", "minmax", "none")
FIT_ON = ("scene", "train")
SAMPLED = 20_000  # spectra of which the usual values are taken, about
NO_VARIANCE = 1e-10  # as a fraction of the first component's variance; whitening would magnify rounding errors


@dataclass(frozen=True)
class Preprocessing:
    """Pre-treat spectra, apply x -> (x - offset) * scale and, with components, then x -> (x - mean) @ components.

    Attributes:
        normalize: one of NORMALIZATIONS.
        fit_on: the pixels that it was fitted on, one of FIT_ON.
        offset, scale: per channel, (n_channels,) float32; a channel is a band, or a value of the pre-treated spectrum.
        mean, components: (n_channels,) and (n_channels, n_components) float32, or None without band reduction.
        pretreatment: of the spectra, or None.
        usual: (2, n_channels) float32, values below and above which lie 1 % of those that it was fitted on, before the
            normalisation; None in older checkpoints.
    """

    normalize: str
    fit_on: str
    offset: np.ndarray
    scale: np.ndarray
    mean: np.ndarray | None = None
    components: np.ndarray | None = None
    pretreatment: Pretreatment | None = None
    usual: np.ndarray | None = None

    @property
    def n_bands_in(self) -> int:
        """Bands that a cube must have."""
        return len(self.offset) if self.pretreatment is None else self.pretreatment.n_bands

    @property
    def n_bands_out(self) -> int:
        """Channels that the model sees."""
        return len(self.offset) if self.components is None else self.components.shape[1]

    def __call__(self, cube: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Apply to a cube.

        Args:
            cube: (..., n_bands_in).
            valid: pixels with data, (...) bool; the others become 0. None if all pixels have data.
        Returns:
            (..., n_bands_out) float32.
        """
        out = cube if self.pretreatment is None else self.pretreatment(cube)
        out = np.subtract(out, self.offset, dtype=np.float32)
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
        state = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}
        return state | {"pretreatment": None if self.pretreatment is None else self.pretreatment.state()}

    @classmethod
    def from_state(cls, state: dict) -> "Preprocessing":
        """Restore from the values of `state`; those of earlier versions have no pre-treatment."""
        values: dict[str, Any] = {name: v.numpy() if hasattr(v, "numpy") else v for name, v in state.items()}
        if values.get("pretreatment") is not None:
            values["pretreatment"] = Pretreatment.from_state(values["pretreatment"])
        return cls(**values)


def fit_preprocessing(
    cube: np.ndarray,
    train: np.ndarray,
    *,
    spectral: str = "none",
    wavelengths: tuple[float, ...] | None = None,
    normalize: str = "zscore",
    fit_on: str = "scene",
    n_components: int = 0,
    valid: np.ndarray | None = None,
) -> Preprocessing:
    """Fit the spectral pre-treatment, the normalisation and, if n_components is not 0, a principal component analysis.

    Args:
        cube: (H, W, n_bands) float32.
        train: (H, W), not 0 on the training pixels.
        spectral: specification of the pre-treatment, see `pretreatment.Pretreatment`.
        wavelengths: of the bands in nm, or None.
        normalize: zscore (mean 0, standard deviation 1 per channel), minmax (0 to 1 per channel), or none.
        fit_on: "scene", all pixels (the test pixels' spectra, not their labels, are used too), or "train", the training
            pixels alone.
        n_components: principal components to keep, whitened; 0 keeps the channels.
        valid: pixels with data, (H, W) bool; the others are not fitted on. None if all pixels have data.
    Raises:
        InputError: a band or channel that is constant on those pixels, or more components than vary on them; a
            pre-treatment that is unknown or does not fit.
    """
    everywhere = cube.reshape(-1, cube.shape[2]) if valid is None else cube[valid]
    spectra = everywhere if fit_on == "scene" else cube[train > 0]
    where = "the whole scene" if fit_on == "scene" else "the training pixels"
    low, high = spectra.min(0), spectra.max(0)
    if normalize != "none":
        remedy = "drop them from the cube, or use --normalize none"
        _refuse_constant(low, high, f"bands are constant over {where}", remedy)
    pretreatment = fit_pretreatment(spectral, spectra, wavelengths)
    if pretreatment is not None:
        spectra = pretreatment(spectra)
        low, high = spectra.min(0), spectra.max(0)
        if normalize != "none" and (low == high).all():
            what = f"values are constant over {where} after the pre-treatment {pretreatment.spec}"
            _refuse_constant(low, high, what, "use --spectral none or another one, or --normalize none")
    n_channels = spectra.shape[1]
    constant = low == high  # a pre-treatment may leave some: the ends of a continuum are 1
    if normalize == "zscore":
        offset = spectra.mean(0, dtype=np.float64)
        scale = 1 / np.where(constant, 1, spectra.std(0, dtype=np.float64))
    elif normalize == "minmax":
        offset, scale = low.astype(np.float64), 1 / np.where(constant, 1, high.astype(np.float64) - low)
    else:
        offset, scale = np.zeros(n_channels), np.ones(n_channels)
    offset, scale = offset.astype(np.float32), scale.astype(np.float32)
    usual = np.percentile(spectra[:: max(1, len(spectra) // SAMPLED)], (1, 99), axis=0).astype(np.float32)
    fitted = Preprocessing(normalize, fit_on, offset, scale, pretreatment=pretreatment, usual=usual)
    if not n_components:
        return fitted
    limit = min(spectra.shape)
    refusal = f"--pca {n_components}: at most {{}} components vary on the {len(spectra)} pixels that they are fitted on"
    if not 1 <= n_components <= limit or len(spectra) < 2:
        raise InputError(refusal.format(limit if len(spectra) > 1 else 0) + "; lower it")
    from sklearn.decomposition import PCA

    pca = PCA(n_components, whiten=True, svd_solver="covariance_eigh").fit(
        ((spectra - offset) * scale).astype(np.float64)
    )
    varying = int((pca.explained_variance_ > NO_VARIANCE * pca.explained_variance_[0]).sum())
    if varying < n_components:
        raise InputError(refusal.format(varying) + "; lower it")
    components = (pca.components_ / np.sqrt(pca.explained_variance_)[:, None]).T
    components = np.ascontiguousarray(components, dtype=np.float32)
    return replace(fitted, mean=pca.mean_.astype(np.float32), components=components)


def _refuse_constant(low, high, what: str, remedy: str) -> None:
    """Raise InputError if some values do not vary between the lowest and the highest."""
    constant = np.flatnonzero(low == high)
    if len(constant):
        numbers = ", ".join(map(str, constant[:10])) + (", ..." if len(constant) > 10 else "")
        raise InputError(
            f"{len(constant)} of the {len(low)} {what} (counted from 0: {numbers}); they carry no information: {remedy}"
        )
