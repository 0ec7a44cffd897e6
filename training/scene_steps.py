"""Training steps of the networks that look at a whole scene at once."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import engine
from metrics import confusion_matrix
from models.base import SceneClassifier
from patches import PatchLoader


class SceneSteps(engine.Steps):
    """Take one step an epoch: the scene goes through the network, and the training pixels make the loss.

    Args:
        model, config: as for `engine.Steps`.
        loader: of the training pixels, all in one batch.
        scene: normalised, (H, W, n_bands).
        flip: in each step the scene is one of its eight mirror images and rotations.
    """

    def __init__(
        self, model: SceneClassifier, loader: PatchLoader, config: engine.TrainConfig, scene: Tensor, *, flip: bool
    ):
        super().__init__(model, loader, config)
        self.network, self.scene, self.flip = model, scene.permute(2, 0, 1).unsqueeze(0), flip

    def epoch(self, number: int) -> Iterator[None]:
        """Take the epoch's only step, unless it was taken before a stop; yields after it."""
        self.begin(number)
        if not self.n_done:
            targets = self.loader.targets
            assert targets is not None
            image = int(torch.randint(8, (), generator=self.loader.generator)) if self.flip else 0
            self.optimiser.zero_grad(set_to_none=True)
            with engine.autocast(self.scene.device, self.config.precision):
                logits = self._logits(self.loader.pixels, image)
            losses, hits = self.descend(logits.float(), targets)
            self.loss_sum, self.hits = losses * self.n, hits
            self.n_done = 1
            yield
        self.order = None

    @torch.no_grad()
    def evaluate(self, loader: PatchLoader) -> np.ndarray:
        """Compute the confusion matrix (K, K) over the pixels of a loader."""
        assert loader.targets is not None
        with engine.eval_mode(self.model), engine.autocast(self.scene.device, self.config.precision):
            found = self.network.class_probabilities(self._logits(loader.pixels)).argmax(-1)
        return confusion_matrix(loader.targets.cpu().numpy(), found.cpu().numpy(), self.network.n_classes)

    def _logits(self, pixels: Tensor, image: int = 0) -> Tensor:
        """Logits of some pixels, (1, n, K), from an image of the scene, 0 to 7; 0 is the scene itself."""
        flipped = [axis for axis, bit in ((2, 1), (3, 2)) if image & bit]
        scene = self.scene.flip(flipped)
        embedded = self.network.embed(scene.transpose(2, 3) if image & 4 else scene)
        embedded = (embedded.transpose(2, 3) if image & 4 else embedded).flip(flipped)
        return self.network.classify(embedded[0, :, pixels[:, 0], pixels[:, 1]].T).unsqueeze(0)
