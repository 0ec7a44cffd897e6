"""MambaHSI and training on a whole scene: sizes, blocks and flips against loops, and maps in parts."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
from mapping import Grid, map_blocks, predict
from models import create_model
from models.mambahsi import Block
from models.options import MambaOptions
from patches import PatchLoader
from recipe import TrainConfig
from training import checkpoint
from training.scene_steps import SceneSteps
from utils import InputError

make: Any = create_model  # the types of its parts are their own


def test_the_number_of_parameters_is_known():
    assert make("MambaHSI", n_bands=200, n_classes=16, patch_size=1).n_parameters == 425_558


def test_the_layers_have_the_shapes_of_the_paper():
    model, seen = make("MambaHSI", n_bands=200, n_classes=16, patch_size=1), []
    skipped = [m for n, m in model.named_modules() if n.endswith("dt_proj")]  # its weight is used, not called
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.GroupNorm)) and module not in skipped:
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
    logits = model.forward_scales(torch.randn(1, 200, 6, 8))
    expected = [(1, 128, 6, 8)] * 2
    for height, width in ((6, 8), (3, 4), (2, 2)):
        n = height * width
        expected += [(1, n, 512), (1, 256, n), (1, n, 40), (1, n, 128)]  # all pixels
        expected += [(n, 4, 128), (n, 64, 4), (n, 4, 34), (n, 4, 32)]  # four groups of each
        expected += [(1, 128, height, width)] * 2
    assert seen == [*expected, (1, 128, 2, 2), (1, 128, 2, 2), (48, 16)]
    assert logits.shape == (1, 48, 16)


def test_a_block_against_its_description():
    torch.manual_seed(0)
    block: Any = Block(MambaOptions(d_state=2)).double()
    x = torch.randn(1, 128, 2, 3, dtype=torch.float64)
    nn.init.normal_(block.weights)
    pixels = torch.stack([x[0, :, i, j] for i in range(2) for j in range(3)])  # (6, 128)
    spatial = block.spatial(pixels.unsqueeze(0), torch.arange(6).unsqueeze(0))[0]
    each = [[pixel[32 * g : 32 * g + 32] for g in range(4)] for pixel in pixels]
    spectral = [block.spectral(torch.stack(groups).unsqueeze(0), torch.arange(4).unsqueeze(0))[0] for groups in each]
    branches = []
    for scanned, after in zip((spatial, torch.stack([each.flatten() for each in spectral])), block.after, strict=True):
        normal = torch.cat([_standard(scanned[:, 32 * g : 32 * g + 32]) for g in range(4)], 1)
        branches.append(pixels + F.silu(normal * after[0].weight + after[0].bias))
    share = block.weights[0].exp() / block.weights.exp().sum()
    expected = pixels + share * branches[0] + (1 - share) * branches[1]
    torch.testing.assert_close(block(x)[0].flatten(1).T, expected)


def _standard(values):
    return (values - values.mean()) / (values.var(unbiased=False) + 1e-5).sqrt()


def test_the_classifier_may_stand_before_or_after_the_interpolation():
    torch.manual_seed(0)
    model, low = make("MambaHSI", n_bands=4, n_classes=3, patch_size=1).double(), []
    model.last.register_forward_hook(lambda _, __, output: low.append(output))
    logits = model.forward_scales(torch.randn(1, 4, 9, 7, dtype=torch.float64))
    early = torch.einsum("bchw,kc->bkhw", low[0], model.head.weight) + model.head.bias[:, None, None]
    early = F.interpolate(early, size=(9, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits[0], early[0].flatten(1).T)


@pytest.fixture
def task():
    """A network, its scene of 6 x 5 pixels in 4 bands, and a loader of eight training pixels of three classes."""
    torch.manual_seed(0)
    model = make("MambaHSI", n_bands=4, n_classes=3, patch_size=1, d_state=2)
    scene = torch.randn(6, 5, 4)
    pixels = torch.tensor([(0, 0), (0, 4), (1, 2), (2, 3), (3, 1), (4, 4), (5, 0), (5, 2)])
    targets = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    generator = torch.Generator().manual_seed(0)
    options: Any = {"patch_size": 1, "batch_size": 8, "generator": generator}
    return model, scene, PatchLoader(scene.permute(2, 0, 1), pixels, targets, **options)


def test_the_loss_is_that_of_the_training_pixels_on_an_image_of_the_scene(task):
    model, scene, loader = task
    config = TrainConfig(3, lr=0.01, label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5))
    before, found = {name: value.clone() for name, value in model.state_dict().items()}, {}
    for seed in range(40):
        image = int(torch.randint(8, (), generator=loader.generator.manual_seed(seed)))
        loader.generator.manual_seed(seed)
        steps = SceneSteps(model, loader, config, scene, flip=True)
        list(steps.epoch(1))
        found[image] = steps.epoch_record()["loss"]
        assert not torch.equal(before["head.weight"], model.head.weight)
        model.load_state_dict(before)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    place = torch.stack([rows, columns], -1)
    losses = []
    for image in range(8):
        turned, where = scene, place
        if image & 1:
            turned, where = turned.flip(0), where.flip(0)
        if image & 2:
            turned, where = turned.flip(1), where.flip(1)
        if image & 4:
            turned, where = turned.transpose(0, 1), where.transpose(0, 1)
        logits = model.forward_scales(turned.permute(2, 0, 1).unsqueeze(0))[0]
        at = {tuple(pixel): number for number, pixel in enumerate(where.flatten(0, 1).tolist())}
        chosen = torch.stack([logits[at[tuple(pixel)]] for pixel in loader.pixels.tolist()])
        weights = torch.tensor(config.class_weights)
        losses.append(F.cross_entropy(chosen, loader.targets, weights, label_smoothing=0.1).item())
    assert len({round(loss, 5) for loss in losses}) == 8
    assert [found[image] for image in range(8)] == pytest.approx(losses, rel=1e-5)


def test_an_epoch_is_a_step_and_evaluation_is_that_of_the_map(task):
    model, scene, loader = task
    steps = SceneSteps(model, loader, TrainConfig(4), scene, flip=False)
    assert steps.schedule.state_dict()["total_steps"] == 4
    history = engine.train(model, loader, loader, TrainConfig(4), _Silent(), steps=steps)
    assert [record["epoch"] for record in history.records] == [1, 2, 3, 4] and steps.schedule.last_epoch == 4
    found = predict(model, scene, loader.pixels).argmax(1)
    assert history.records[-1]["val_accuracy"] == (found == loader.targets).double().mean()
    assert steps.evaluate(loader).sum() == 8


class _Silent:
    def epoch(self, record, model):
        pass


@pytest.mark.parametrize(("patch_size", "start", "block_rows"), [(1, 0, None), (1, 0, 2), (1, 7, 1), (3, 0, None)])
def test_a_map_in_blocks_is_that_of_the_whole_scene(task, patch_size, start, block_rows):
    _, scene, _ = task
    model = make("MambaHSI", n_bands=4, n_classes=3, patch_size=patch_size, d_state=2)
    grid = Grid.of((6, 5), patch_size)
    pixels = torch.from_numpy(grid.pixels(0, len(grid)))
    expected = predict(model, scene, pixels).numpy()
    parts = map_blocks(
        model,
        lambda first, last: scene[first:last].numpy(),
        grid,
        torch.device("cpu"),
        start=start,
        block_rows=block_rows,
    )
    found = np.full_like(expected, np.nan)
    for first, block in parts:
        found[first : first + len(block)] = block
    np.testing.assert_allclose(found[start:], expected[start:], rtol=1e-5)
    alone = predict(model, scene[:3], pixels[:5]).numpy()  # other pixels matter
    assert abs(alone - expected[:5]).max() > 1e-3


def test_larger_patches_take_the_centre(task):
    model, scene, loader = task
    larger = make("MambaHSI", n_bands=4, n_classes=3, patch_size=3, d_state=2)
    larger.load_state_dict(model.state_dict())
    assert torch.equal(predict(larger, scene, loader.pixels), predict(model, scene, loader.pixels))


def test_a_scene_that_needs_more_memory_than_there_is_is_refused(monkeypatch):
    model = create_model("MambaHSI", n_bands=5, n_classes=3, patch_size=1)
    monkeypatch.setattr(checkpoint, "granted_memory", lambda device: 2 * 2**30)
    cpu = torch.device("cpu")
    checkpoint.check_memory(model, 190, 200, cpu, training=True)
    checkpoint.check_memory(model, 300, 300, cpu, training=False)
    checkpoint.check_memory(create_model("CNN", n_bands=5, n_classes=3, patch_size=3), 9999, 9999, cpu, training=True)
    words = "MambaHSI takes a scene at once, and 300 x 300 pixels need about 5 GiB of memory, where there are 2; take a"
    with pytest.raises(InputError, match=words):
        checkpoint.check_memory(model, 300, 300, cpu, training=True)
    with pytest.raises(InputError, match="600 x 300 pixels need about 3 GiB"):
        checkpoint.check_memory(model, 600, 300, cpu, training=False)
    monkeypatch.setattr(checkpoint, "granted_memory", lambda device: None)
    checkpoint.check_memory(model, 9999, 9999, cpu, training=True)


def test_a_step_has_the_gradients_of_its_own_epoch_alone(task):
    model, scene, loader = task
    steps = SceneSteps(model, loader, TrainConfig(3, max_norm=1e9), scene, flip=False)
    list(steps.epoch(1))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    list(steps.epoch(2))
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.load_state_dict(weights)
    list(SceneSteps(model, loader, TrainConfig(3, max_norm=1e9), scene, flip=False).epoch(1))
    for one, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)
