"""The loader that others use: patches one at a time, cut out in Python."""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class PatchByPatch(Dataset):
    """The peer's way to patches: one at a time, cut out in Python."""

    def __init__(self, cube, pixels, targets, patch_size):
        margin = patch_size // 2
        self.padded = np.pad(cube.numpy(), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
        self.pixels, self.targets, self.patch_size = pixels, targets, patch_size

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        (row, column), side = self.pixels[i].tolist(), self.patch_size
        return torch.from_numpy(self.padded[row : row + side, column : column + side].transpose(2, 0, 1).copy()), int(
            self.targets[i]
        )


class ItemLoader:
    """A DataLoader that `engine.train` takes."""

    def __init__(self, dataset, batch_size, shuffle):
        self.loader = DataLoader(dataset, batch_size, shuffle=shuffle)
        self.pixels, self.device = dataset.pixels, torch.device("cpu")

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(self.loader)
