"""T-Mamba, and the block and the stage that are built from it.

The paper's symbols and the names here (Zhou et al. 2025; u, delta, A, B, C, D keep their letters in `models.ssm` and
`selective_scan`):

    symbol             name                        meaning
    C1, K              n_bands, n_classes          channels of a patch; classes
    p, p_i             patch_size, grid, grid_out  side of the patch; of a stage's token grid before and after it
    L, S               length, n_tokens            tokens of a grid before and after: grid^2, grid_out^2
    C, N               dim, d_state                width of the tokens; states per channel of the scan
    n, z               normed, z                   tokens after the norm; the gate: pool(silu(z_proj(n)))
    S6_f, S6_b         forward_branch, backward_branch     a branch per direction: convolution, SiLU, S6
    y_f, y_b, y        y_f, y_b, y                 scanned forward and backward; merged
    MCS                cross_scan_orders           Mamba-cross-scan: the four scan orders, "types"
    GDM; w_idx, w_fea  GaussianDecay; index_weight, by_feature     Gaussian decay mask and its two factors
    T                  centre                      index of the centre pixel's token in a sequence
    STL; U1, U2, u     TokenLearner; score, value  semantic token learner and its two matrices; its tokens
    STF; P             TokenFuser; mix             semantic token fuser and its mixing of the S tokens
    WMF; k             WeightedFusion; k           weighted MCS fusion and its weights before the softmax
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.dropout import Dropout
from models.options import MiMOptions
from models.scan_order import cross_scan_orders, inverse_orders
from models.ssm import ScanBranch
from models.tokens import GaussianDecay, GridPool, TokenFuser, TokenLearner, WeightedFusion
from selective_scan import CrossScanArguments, can_cross_scan, cross_scan


class TMamba(nn.Module):
    """Scan a token grid along some scan types and reduce each scan to S = grid_out^2 tokens.

    All types share the parameters and are computed as one batch; what does not depend on the type is computed once.

    Args:
        grid, grid_out: sides of the token grid before and after.
        scan_types: which of the four scan orders, 1-based.
        options: the network's settings.
    Source: Zhou et al. 2025, T-Mamba.
    """

    forward_order: Tensor  # (types * scanned,), raster indices, type by type
    backward_order: Tensor
    raster_order: Tensor  # (types * L,), indices of the merged sequences, type by type

    def __init__(self, grid: int, grid_out: int, scan_types: tuple[int, ...], options: MiMOptions):
        super().__init__()
        length, n_tokens = grid * grid, grid_out * grid_out
        dim, d_inner = options.dim, options.d_inner
        orders = cross_scan_orders(grid)[[scan_type - 1 for scan_type in scan_types]]
        self.n_types = len(scan_types)
        self.halves, self.scan_backend = options.scan == "halves", options.scan_backend
        self.fused = True  # one operator if the device has it; `as_modules` changes it
        scanned = (length + 1) // 2 if self.halves else length
        centre = scanned - 1 if self.halves else length // 2

        self.norm = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, d_inner, bias=False)
        self.z_proj = nn.Linear(dim, d_inner, bias=False)
        self.forward_branch = ScanBranch(d_inner, options.d_state, options.scan_backend)
        self.backward_branch = ScanBranch(d_inner, options.d_state, options.scan_backend)
        self.decay = GaussianDecay(scanned, centre, options.decay)
        self.merge_norm = nn.LayerNorm(d_inner)
        self.pool = GridPool(grid, grid_out)
        self.dropout = Dropout(options.dropout)
        self.learned = options.tokens == "learned"
        if self.learned:
            self.learner = TokenLearner(d_inner, n_tokens)
            self.fuser = TokenFuser(d_inner, n_tokens)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.res_proj = nn.Linear(dim, dim)

        self.register_buffer("forward_order", orders[:, :scanned].flatten(), persistent=False)
        self.register_buffer("backward_order", orders.flip(1)[:, :scanned].flatten(), persistent=False)
        offsets = torch.arange(self.n_types).unsqueeze(1) * length
        self.register_buffer("raster_order", (inverse_orders(orders) + offsets).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in raster order (B, L, dim) to (B, types, S, dim), aligned over the types."""
        normed = self.norm(x)
        tokens, z = self.in_proj(normed), self.pool(F.silu(self.z_proj(normed)))
        skip = self.res_proj(self.pool(x))  # (B, S, dim)
        order, n_states = self.forward_order.view(self.n_types, -1), self.forward_branch.s6.d_state
        if self.fused and can_cross_scan(tokens, order, n_states, self.scan_backend):
            return self._fused(tokens, z, skip)
        y = self.merge_norm(self.scan(tokens))  # (B, types, L, d_inner), in scan order
        if self.learned:
            fused = self.fuser(self.dropout(self.learner(y)), z)
        else:
            fused = self.dropout(self.pool(self._to_raster(y))) * z.unsqueeze(1)
        return self.out_proj(fused) + skip.unsqueeze(1)

    def _fused(self, tokens: Tensor, z: Tensor, skip: Tensor) -> Tensor:
        """The rest of `forward` with one operator from the tokens to what is merged, normed and averaged.

        The parts are not called as modules here, so their hooks do not run; see `as_modules`.
        """
        arguments = CrossScanArguments(
            tokens=tokens,
            ahead=self.forward_branch.parameters_of_scan(),
            behind=self.backward_branch.parameters_of_scan(),
            norm_weight=self.merge_norm.weight,
            norm_bias=self.merge_norm.bias,
            attention=self.learner.attention.packed() if self.learned else None,
            score=self.learner.score.weight if self.learned else None,
            ahead_order=self.forward_order.view(self.n_types, -1),
            behind_order=self.backward_order.view(self.n_types, -1),
            index_weight=self.decay.index_weight,
            centre=self.decay.centre,
            by_feature=self.decay.by_feature,
            halves=self.halves,
            eps=self.merge_norm.eps,
        )
        y = rearrange(
            cross_scan(arguments), "(b t) n c -> b t n c", t=self.n_types
        )  # in raster order, or the learner's averages
        if not self.learned:
            return self.out_proj(self.dropout(self.pool(y)) * z.unsqueeze(1)) + skip.unsqueeze(1)
        mix, added = self.fuser.parts(z)
        if self.training:
            values = self.out_proj(self.dropout(self.learner.value(y)))
        else:  # nothing is dropped: both matrices are one
            values = F.linear(y, self.out_proj.weight @ self.learner.value.weight)
        return (mix.unsqueeze(1) @ values).add_((self.out_proj(added) + skip).unsqueeze(1))

    def scan(self, tokens: Tensor) -> Tensor:
        """Scan both ways: (B, L, d_inner) in raster order to (B, types, L, d_inner) in scan order."""
        y_f = self._run(self.forward_branch, tokens, self.forward_order)
        y_b = self._run(self.backward_branch, tokens, self.backward_order)
        if self.halves:  # both end at the centre, which becomes their mean
            middle = (y_f[:, :, -1:] + y_b[:, :, -1:]) / 2
            return torch.cat([y_f[:, :, :-1], middle, y_b[:, :, :-1].flip(2)], dim=2)
        return (y_f + y_b.flip(2)) / 2

    def _run(self, branch: ScanBranch, tokens: Tensor, order: Tensor) -> Tensor:
        """One direction of all types at once, decayed towards the centre; in the direction's order."""
        return rearrange(
            self.decay(branch(tokens, order.view(self.n_types, -1))), "(b t) n c -> b t n c", t=self.n_types
        )

    def _to_raster(self, y: Tensor) -> Tensor:
        flat = rearrange(y, "b t n c -> b (t n) c").index_select(1, self.raster_order)
        return rearrange(flat, "b (t n) c -> b t n c", t=self.n_types)


@contextmanager
def as_modules(model: nn.Module) -> Iterator[None]:
    """Call every part of a model's T-Mambas as a module, so that its hooks run, instead of one fused operator."""
    mixers = [module for module in model.modules() if isinstance(module, TMamba)]
    before = [mixer.fused for mixer in mixers]
    try:
        for mixer in mixers:
            mixer.fused = False
        yield
    finally:
        for mixer, fused in zip(mixers, before, strict=True):
            mixer.fused = fused


class MiMBlock(nn.Module):
    """T-Mamba over all scan types, ReLU, weighted fusion: (B, L, dim) to (B, S, dim), both in raster order."""

    def __init__(self, grid: int, grid_out: int, options: MiMOptions):
        super().__init__()
        types = options.scan_types
        groups = [(scan_type,) for scan_type in types] if options.separate_types else [types]
        self.mixers = nn.ModuleList([TMamba(grid, grid_out, group, options) for group in groups])
        self.fusion = WeightedFusion(len(types), weighted=options.fusion == "weighted")

    def forward(self, x: Tensor) -> Tensor:
        parts = [mixer(x) for mixer in self.mixers]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # (B, types, S, dim)
        return self.fusion(torch.relu(out))


class MiMStage(nn.Module):
    """`depth` blocks, each with its own parameters, and a norm; the last block makes the smaller grid."""

    def __init__(self, grid: int, grid_out: int, options: MiMOptions):
        super().__init__()
        sides = [grid] * options.depth + [grid_out]
        self.blocks = nn.Sequential(*[MiMBlock(*pair, options) for pair in pairwise(sides)])
        self.norm = nn.LayerNorm(options.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, grid^2, dim) to (B, grid_out^2, dim)."""
        return self.norm(self.blocks(x))
