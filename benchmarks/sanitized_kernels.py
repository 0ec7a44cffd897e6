"""Every kernel once on small inputs, to be run under compute-sanitizer, as `benchmarks.gpu_right` does."""

import torch

from models import create_model
from selective_scan import selective_scan
from utils import choose_device, seed_everything


def main() -> None:
    device = choose_device(0)
    seed_everything(0)
    for n_states in (3, 8, 16, 17, 64, 100):
        u, delta = (torch.randn(3, 19, 70, device=device, requires_grad=True) for _ in range(2))
        A = -torch.rand(70, n_states, device=device).requires_grad_()
        B, C = (torch.randn(3, 19, n_states, device=device, requires_grad=True) for _ in range(2))
        selective_scan(u, delta, A, B, C, delta_softplus=True, backend="cuda").sum().backward()
    for name in ("MiM-v1", "MiM-v3"):
        model = create_model(name, n_bands=5, n_classes=3, patch_size=5).to(device)
        model(torch.randn(3, 5, 5, 5, device=device)).sum().backward()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
