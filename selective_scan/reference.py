"""The selective scan in plain PyTorch with a backward pass: any device, nothing compiled, linear in L."""

import torch
import torch.nn.functional as F
from torch import Tensor

# States held at a time: the batch is processed in slices of about this many numbers, so that they stay in the
# processor's cache and memory does not grow with the batch. Accelerators are wide and take larger slices.
SLICE_NUMEL = {"cpu": 2**20, "other": 2**26}


def fault() -> None:
    """Give None: it runs on any machine."""


def describe() -> str:
    """Say how it runs here, in a few words."""
    return f"plain PyTorch {torch.__version__}"


def forward(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """y; see `selective_scan`."""
    y = torch.empty_like(u)
    _, step = _step_size(delta, delta_bias, delta_softplus)
    for rows in _slices(u, A):
        states, _ = _states(u[rows], step[rows], A, B[rows])
        y[rows] = _contract_states(states, C[rows])
    return y if D is None else y.addcmul_(u, D)


def backward(grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus):
    """The seven gradients; the states are computed again, slice by slice, none are kept from the forward pass."""
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    grad_A, grad_B, grad_C = torch.zeros_like(A), torch.empty_like(B), torch.empty_like(C)
    raw, step = _step_size(delta, delta_bias, delta_softplus)
    for rows in _slices(u, A):
        u_t, step_t = _time_first(u[rows]), _time_first(step[rows])
        B_t, C_t, grad_y_t = _time_first(B[rows]), _time_first(C[rows]), _time_first(grad_y[rows])
        states, decay = _states(u[rows], step[rows], A, B[rows])

        grad_C[rows] = torch.matmul(grad_y_t.unsqueeze(-2), states).squeeze(-2).transpose(0, 1)
        # dL/dh_t = C_t dL/dy_t + exp(delta_(t+1) A) dL/dh_(t+1): the same recurrence, run backwards.
        grad_h = grad_y_t.unsqueeze(-1) * C_t.unsqueeze(-2)
        for t in range(len(grad_h) - 2, -1, -1):
            grad_h[t].addcmul_(decay[t + 1], grad_h[t + 1])

        grad_B[rows] = torch.matmul((u_t * step_t).unsqueeze(-2), grad_h).squeeze(-2).transpose(0, 1)
        grad_input = torch.matmul(grad_h, B_t.unsqueeze(-1)).squeeze(-1)  # by delta_t u_t
        # exp(delta_t A)'s exponent gets dL/dh_t h_(t-1) exp(delta_t A); h_0 = 0, so the first step gets none.
        grad_exponent = grad_h[1:].mul_(states[:-1]).mul_(decay[1:])
        grad_A += (grad_exponent * step_t[1:].unsqueeze(-1)).sum((0, 1))
        grad_step = grad_input * u_t
        grad_step[1:] += (grad_exponent * A).sum(-1)
        grad_u[rows] = (grad_input * step_t).transpose(0, 1)
        grad_delta[rows] = grad_step.transpose(0, 1)
    if delta_softplus:
        grad_delta *= torch.sigmoid(raw)
    grad_D = (grad_y * u).sum((0, 1))
    if D is not None:
        grad_u.addcmul_(grad_y, D)
    grad_bias = grad_delta.sum((0, 1))
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias


def _step_size(delta, delta_bias, delta_softplus) -> tuple[Tensor, Tensor]:
    """delta with its bias, and the step size that it encodes."""
    raw = delta if delta_bias is None else delta + delta_bias
    return raw, F.softplus(raw, threshold=40.0) if delta_softplus else raw  # exact in float64, which 20 is not


def _slices(u: Tensor, A: Tensor) -> list[slice]:
    batch, length, _ = u.shape
    limit = SLICE_NUMEL.get(u.device.type, SLICE_NUMEL["other"])
    step = max(1, limit // (length * A.numel()))
    return [slice(start, start + step) for start in range(0, batch, step)]


def _time_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous()


def _states(u: Tensor, step: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """All states h_t and decays exp(delta_t A), each (L, batch, d_inner, N)."""
    step = _time_first(step)
    decay = (step.unsqueeze(-1) * A).exp_()
    states = (step * _time_first(u)).unsqueeze(-1) * _time_first(B).unsqueeze(-2)
    for t in range(1, len(states)):
        states[t].addcmul_(decay[t], states[t - 1])
    return states, decay


def _contract_states(states: Tensor, C: Tensor) -> Tensor:
    """sum_n C_tn h_tn: (L, batch, d_inner, N) with (batch, L, N) gives (batch, L, d_inner)."""
    return torch.matmul(states, _time_first(C).unsqueeze(-1)).squeeze(-1).transpose(0, 1)
