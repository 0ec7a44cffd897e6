"""Small networks for the tests, and patches for them."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from models import create_model
from models.tokens import GaussianDecay, GridPool

MIM = {  # what the variants are, and their scales at patch 5
    "MiM": {"stem": "full", "scan": "halves", "decay": "both", "tokens": "learned", "depth": 1, "scales": (1,)},
    "MiM-v1": {"scan": "halves", "decay": "both", "tokens": "learned", "depth": 1, "scales": (3, 1)},
    "MiM-v2": {"scan": "whole", "decay": "both", "tokens": "learned", "depth": 1, "scales": (5, 3, 1)},
    "MiM-v3": {"scan": "whole", "decay": "index", "tokens": "pooled", "depth": 2, "scales": (5,)},
}
SMALL = {"dim": 8, "d_inner": 32, "d_state": 3}  # dt_rank 2
N_BANDS, N_CLASSES = 6, 4
every_mim = pytest.mark.parametrize("name", MIM)


def small(name, *, patch_size=5, seed=0, **switches) -> Any:
    """A narrow network of the kind, freshly drawn."""
    torch.manual_seed(seed)
    options = SMALL if name in MIM else {"dim": 8}
    return create_model(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=patch_size, **options | switches)


def patches(n, patch_size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, N_BANDS, patch_size, patch_size, dtype=torch.float64, generator=generator)


def shaken(model, seed=0):
    """The model in float64 and eval mode, with no parameter and no running statistic left at its start."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, dtype=torch.float64, generator=generator), alpha=0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, dtype=torch.float64, generator=generator))
    return with_exact_constants(model)


def with_exact_constants(model):
    """Check the constants, which are kept in float32, and put in float64 ones: all else then agrees to 1e-9."""
    for module in model.modules():
        if isinstance(module, GaussianDecay) and not (module.index_weight == 1).all():
            place = np.zeros((len(module.index_weight), 1))
            constant, exact = module.index_weight, np.array(naive_weights(place, module.centre, "index"))[:, None]
        elif isinstance(module, GridPool):
            n_out, n_in = module.pool_weights.shape
            constant, exact = module.pool_weights, naive_pool(np.eye(n_in), math.isqrt(n_in), math.isqrt(n_out))
        else:
            continue
        torch.testing.assert_close(constant, torch.tensor(exact), rtol=3e-7, atol=0)
        constant.copy_(torch.tensor(exact))
    return model


def naive_weights(y, centre, decay):
    """Weights of the tokens y (L, channels), one number at a time."""
    n = len(y)
    steps = [abs(t - centre) for t in range(n)]
    apart = [math.sqrt(sum((a - b) ** 2 for a, b in zip(row, y[centre], strict=True))) for row in y]
    weights = [1.0] * n
    for distances, used in ((steps, decay in ("index", "both")), (apart, decay in ("feature", "both"))):
        scale = sum(distances) / n
        if used and scale > 0:
            weights = [w * math.exp(-0.5 * d**2 / scale**2) for w, d in zip(weights, distances, strict=True)]
    return weights


def naive_pool(x, grid, grid_out):
    """Adaptive average of a raster (g * g, channels): window i runs from floor(i g / o) to ceil((i + 1) g / o)."""
    windows = [range(i * grid // grid_out, -(-(i + 1) * grid // grid_out)) for i in range(grid_out)]
    return np.array(
        [np.mean([x[r * grid + c] for r in rows for c in columns], axis=0) for rows in windows for columns in windows]
    )
