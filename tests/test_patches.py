"""Every patch against a crop from numpy's padding, the order of batches, and what augmentation may change."""

import numpy as np
import pytest
import torch

from patches import Augmentation, PatchLoader, check_patch_size, labelled_pixels

HEIGHT, WIDTH, N_BANDS = 7, 9, 3
IMAGE = torch.from_numpy(np.random.default_rng(0).normal(size=(N_BANDS, HEIGHT, WIDTH)).astype(np.float32))
EVERY_PIXEL = torch.cartesian_prod(torch.arange(HEIGHT), torch.arange(WIDTH))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def crop(image, row, column, patch_size):
    """The window round a pixel, cut from numpy's own mirror padding."""
    margin = patch_size // 2
    padded = np.pad(image.numpy(), ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    return torch.from_numpy(padded[:, row : row + patch_size, column : column + patch_size])


def numbered(n, **options):
    """A loader over n pixels whose targets are their own positions, so that the order can be read off."""
    return PatchLoader(IMAGE, EVERY_PIXEL[:n], torch.arange(n), patch_size=1, **options)


def order(loader):
    return torch.cat([targets for _, targets in loader]).tolist()


# Patches


@pytest.mark.parametrize("patch_size", [1, 3, 5, 7])
def test_every_pixel_has_its_window_at_the_border_and_in_the_corners_too(patch_size):
    loader = PatchLoader(IMAGE, EVERY_PIXEL, patch_size=patch_size, batch_size=10)
    patches = torch.cat([patches for patches in loader if isinstance(patches, torch.Tensor)])
    assert patches.shape == (HEIGHT * WIDTH, N_BANDS, patch_size, patch_size)
    for patch, (row, column) in zip(patches, EVERY_PIXEL.tolist(), strict=True):
        assert torch.equal(patch, crop(IMAGE, row, column, patch_size)), (row, column)
        assert torch.equal(patch[:, patch_size // 2, patch_size // 2], IMAGE[:, row, column]), (row, column)


def test_the_rows_of_a_view_with_the_bands_last_are_read_right():
    cube = torch.rand(HEIGHT, WIDTH, N_BANDS, generator=seeded())
    (patch,) = PatchLoader(cube.permute(2, 0, 1), torch.tensor([[6, 0]]), patch_size=3, batch_size=1)
    assert torch.equal(patch[0], crop(cube.permute(2, 0, 1), 6, 0, 3))


def test_a_patch_may_be_as_large_as_the_scenes_smaller_side():
    (patch,) = PatchLoader(IMAGE, torch.tensor([[0, 8]]), patch_size=HEIGHT, batch_size=1)
    assert torch.equal(patch[0], crop(IMAGE, 0, 8, HEIGHT))


def test_patches_come_with_the_targets_of_their_pixels():
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    mask[0, 8], mask[3, 2], mask[6, 0], mask[3, 1] = 3, 1, 2, 3
    pixels, targets = labelled_pixels(mask)
    assert pixels.tolist() == [[0, 8], [3, 1], [3, 2], [6, 0]]
    assert targets.tolist() == [2, 2, 0, 1]
    loader = PatchLoader(IMAGE, pixels, targets, patch_size=3, batch_size=2, generator=seeded())
    for patches, batch_targets in loader:
        for patch, target in zip(patches, batch_targets, strict=True):
            of_class = pixels[targets == target].tolist()
            assert any(torch.equal(patch[:, 1, 1], IMAGE[:, row, column]) for row, column in of_class)


# Batches


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (4, 4), (5, 4), (17, 4), (63, 64), (10, 1)])
def test_without_a_generator_the_order_is_kept_and_all_batches_but_the_last_are_full(n, batch_size):
    loader = numbered(n, batch_size=batch_size)
    sizes = [len(targets) for _, targets in loader]
    assert order(loader) == list(range(n))
    assert len(sizes) == len(loader) == -(-n // batch_size)
    assert all(size == batch_size for size in sizes[:-1])


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (4, 4), (5, 4), (17, 4), (63, 64), (10, 1)])
def test_with_a_generator_every_pixel_comes_once_in_batches_that_differ_by_one_at_most(n, batch_size):
    loader = numbered(n, batch_size=batch_size, generator=seeded())
    sizes = [len(targets) for _, targets in loader]
    assert sorted(order(loader)) == list(range(n))
    assert len(sizes) == len(loader) == -(-n // batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size


def test_the_generators_seed_decides_the_order_and_every_epoch_has_its_own():
    first, again, other = (numbered(40, batch_size=8, generator=seeded(seed)) for seed in (1, 1, 2))
    epochs = [order(first), order(first)]
    assert epochs == [order(again), order(again)]
    assert epochs[0] != epochs[1]
    assert order(other) not in epochs


def test_a_loader_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    augment = Augmentation(flip=True, radiation=True, mixture=True)
    list(numbered(20, batch_size=5, generator=seeded(), augment=augment))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_gives_the_same_augmented_batches():
    def batches(seed):
        augment = Augmentation(flip=True, radiation=True, mixture=True)
        options = {"patch_size": 3, "batch_size": 8, "generator": seeded(seed), "augment": augment}
        return torch.cat([patches for patches, _ in PatchLoader(IMAGE, EVERY_PIXEL, torch.arange(63) % 3, **options)])

    assert torch.equal(batches(5), batches(5))
    assert not torch.equal(batches(5), batches(6))


def test_no_pixels_give_no_batches():
    for generator in (None, seeded()):
        loader = PatchLoader(IMAGE, EVERY_PIXEL[:0], patch_size=3, batch_size=4, generator=generator)
        assert len(loader) == 0
        assert list(loader) == []


@pytest.mark.parametrize("patch_size", [0, -1, 2, 8])
def test_an_even_or_empty_patch_is_refused(patch_size):
    with pytest.raises(ValueError, match=f"patch_size must be odd, .* not {patch_size}"):
        PatchLoader(IMAGE, EVERY_PIXEL, patch_size=patch_size, batch_size=4)


def test_a_patch_larger_than_the_scene_is_refused():
    check_patch_size(7, 7, 9)
    for size, height, width in ((9, 7, 9), (9, 9, 7)):
        with pytest.raises(ValueError, match=f"patch_size 9 is larger than the scene of {height} x {width} pixels"):
            check_patch_size(size, height, width)


@pytest.mark.parametrize("pixel", [(-1, 0), (0, -1), (7, 0), (0, 9)])
def test_a_pixel_outside_the_scene_is_refused(pixel):
    with pytest.raises(ValueError, match="a pixel lies outside the scene of 7 x 9"):
        PatchLoader(IMAGE, torch.tensor([(0, 0), pixel]), patch_size=3, batch_size=4)


def test_augmentation_without_a_generator_is_refused():
    with pytest.raises(ValueError, match="augmentation needs a generator"):
        numbered(20, batch_size=5, augment=Augmentation())


def test_an_empty_batch_size_is_refused():
    with pytest.raises(ValueError, match="the batch size must be at least 1, not 0"):
        PatchLoader(IMAGE, EVERY_PIXEL, patch_size=3, batch_size=0)


# Augmentation


def eight_images(patch):
    """The eight mirror images and rotations of a patch (C, P, P)."""
    turned = [torch.rot90(patch, quarter, (1, 2)) for quarter in range(4)]
    return turned + [image.flip(2) for image in turned]


def augment(patches, targets=None, seed=0, **parts):
    targets = torch.zeros(len(patches), dtype=torch.int64) if targets is None else targets
    return Augmentation(**{"flip": False, **parts})(patches, targets, seeded(seed))


def test_a_flip_gives_each_of_the_eight_images_equally_often_and_keeps_the_centre():
    patch = torch.arange(2 * 9.0).view(2, 3, 3)
    images = torch.stack(eight_images(patch))
    flipped = augment(patch.expand(4000, -1, -1, -1), flip=True)
    matches = (flipped.unsqueeze(1) == images).all(-1).all(-1).all(-1)  # (4000, 8)
    assert matches.sum(1).eq(1).all()
    assert (matches.sum(0) - 500).abs().max() < 100  # nearly five standard deviations
    assert torch.equal(flipped[:, :, 1, 1], patch[:, 1, 1].expand(4000, -1))


def test_radiation_scales_each_patch_by_one_factor_and_adds_small_noise():
    patches = torch.full((3000, 2, 5, 5), 100.0)
    result = augment(patches, radiation=True)
    factor = result.mean((1, 2, 3)) / 100
    assert factor.min() > 0.898
    assert factor.max() < 1.102
    assert abs(float(factor.mean()) - 1) < 0.005
    assert abs(float(factor.std()) - 0.2 / 12**0.5) < 0.003  # uniform
    noise = result - result.mean((1, 2, 3), keepdim=True)
    assert abs(float(noise.std()) - 0.04 * (49 / 50) ** 0.5) < 0.001
    assert abs(float(noise.mean())) < 0.001


def test_mixture_mixes_with_a_patch_of_the_same_class_and_never_another():
    value = torch.arange(60.0)  # one value a patch: 60 patches of three classes, far from each other
    targets = torch.arange(60) % 3
    patches = (value + 1000 * targets).view(60, 1, 1, 1).expand(60, 2, 5, 5)
    shares = []
    for seed in range(20):
        result = augment(patches, targets, seed, mixture=True).mean((1, 2, 3))
        for kind in range(3):
            of_class = patches[targets == kind][:, 0, 0, 0]
            assert result[targets == kind].min() > of_class.min() - 0.05
            assert result[targets == kind].max() < of_class.max() + 0.05
        shares.append((result - patches[:, 0, 0, 0]).abs())
    moved = torch.stack(shares)
    assert (moved > 1).float().mean() > 0.5  # most have a partner other than themselves, and take much of it


def test_mixture_weighs_both_patches_alike_on_average_and_adds_small_noise():
    targets = torch.zeros(2000, dtype=torch.int64)
    patches = torch.zeros(2000, 1, 5, 5)
    patches[::2] = 100
    result = augment(patches, targets, mixture=True)
    mean = result.mean((1, 2, 3))
    mixed = mean[(mean > 0.5) & (mean < 99.5)]
    assert 800 < len(mixed) < 1200  # half of the partners have the other value
    assert abs(float(mixed.mean()) - 50) < 3
    low, high = 100 * 0.01 / 1.01, 100 * 1 / 1.01  # weights are drawn from [0.01, 1]
    assert low - 0.05 < mixed.min() < 10
    assert 90 < mixed.max() < high + 0.05
    noise = result - mean.view(-1, 1, 1, 1)
    assert abs(float(noise.std()) - 0.04 * (24 / 25) ** 0.5) < 0.001


def test_a_patch_alone_in_its_class_is_mixed_with_itself():
    patches = torch.rand(5, 2, 3, 3, generator=seeded())
    result = augment(patches, torch.arange(5), mixture=True)
    assert 0 < (result - patches).abs().max() < 0.25


@pytest.mark.parametrize("part", ["flip", "radiation", "mixture"])
def test_augmentation_leaves_targets_and_originals_alone_and_keeps_shape_and_type(part):
    patches, targets = torch.rand(12, 2, 3, 3, generator=seeded()), torch.arange(12) % 4
    patches_before, targets_before = patches.clone(), targets.clone()
    result = augment(patches, targets, **{part: True})
    assert result.shape == patches.shape
    assert result.dtype == patches.dtype
    assert not torch.equal(result, patches)
    assert torch.equal(patches, patches_before)
    assert torch.equal(targets, targets_before)


def test_with_every_part_off_nothing_changes():
    patches = torch.rand(6, 2, 3, 3, generator=seeded())
    assert torch.equal(augment(patches), patches)


def test_a_loader_augments_patches_and_keeps_their_targets():
    loader = numbered(20, batch_size=6, generator=seeded(), augment=lambda patches, *_: patches * 0 - 1)
    assert all((patches == -1).all() for patches, _ in loader)
    assert sorted(order(loader)) == list(range(20))
