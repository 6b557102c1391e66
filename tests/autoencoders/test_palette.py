"""Palettes: k-means by hand and by its optimum, codes that are nearest, the part that measures."""

import pytest
import torch

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.palette import (
    PaletteAutoencoder,
    distinct_colours,
    even_colours,
    k_means,
)
from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError
from t2ibench.core.pixels import from_pixels
from t2ibench.engine.context import Context
from t2ibench.runs.folder import Run


def test_distinct_colours_are_counted_over_all_batches():
    red, blue = torch.tensor([255, 0, 0]), torch.tensor([0, 0, 255])
    first = torch.stack([red, red, blue, red], 1).view(1, 3, 2, 2).byte()
    second = blue.view(1, 3, 1, 1).expand(1, 3, 2, 2).byte()
    colours, weights = distinct_colours([first, second])
    assert colours.tolist() == [[-1, -1, 1], [1, -1, -1]]
    assert weights.tolist() == [5, 3]


def test_centres_are_the_weighted_means_of_well_apart_groups():
    torch.manual_seed(0)
    middles = torch.tensor([[-0.8, 0, 0], [0.8, 0, 0], [0, 0.8, 0], [0, 0, -0.8]]).double()
    points = (middles[:, None] + 0.05 * torch.randn(4, 25, 3).double()).flatten(0, 1)
    weights = torch.randint(1, 9, (100,)).double()
    found = k_means(points, weights, 4, iterations=50, seed=3)
    groups, mass = points.view(4, 25, 3), weights.view(4, 25, 1)
    means = (groups * mass).sum(1) / mass.sum(1)
    torch.testing.assert_close(found[found[:, 0].argsort()], means[means[:, 0].argsort()])


def test_iterations_never_raise_the_error_and_equal_seeds_give_equal_centres():
    torch.manual_seed(1)
    points, weights = torch.rand(400, 3).double(), torch.rand(400).double()

    def error(iterations):
        centres = k_means(points, weights, 7, iterations=iterations, seed=0)
        return float((torch.cdist(points, centres).square().amin(1) * weights).sum())

    errors = [error(n) for n in (1, 2, 4, 8, 100)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    again = k_means(points, weights, 7, iterations=9, seed=0)
    assert torch.equal(again, k_means(points, weights, 7, iterations=9, seed=0))


def test_few_colours_are_kept_as_they_are():
    points = torch.tensor([[-1.0, -1, -1], [0, 0, 1], [1, 1, 1]]).double()
    found = k_means(points, torch.ones(3).double(), 5, iterations=3, seed=0)
    assert torch.equal(found[:3], points) and torch.equal(found[3:], points[[2, 2]])


@pytest.mark.parametrize("count", [2, 8, 27, 30, 512])
def test_an_unmeasured_palette_has_distinct_colours_in_the_cube(count):
    colours = even_colours(count)
    assert colours.shape == (count, 3) and colours.abs().max() <= 1
    assert len(colours.unique(dim=0)) == count


def test_a_pixel_has_the_code_of_its_nearest_colour():
    torch.manual_seed(0)
    images, stage = torch.rand(2, 3, 4, 4) * 2 - 1, PaletteAutoencoder(colours=30)
    pixels = images.permute(0, 2, 3, 1).reshape(2, 16, 3)
    nearest = (pixels[:, :, None] - stage.palette).square().sum(-1).argmin(-1)
    frozen = FrozenFirstStage(stage)
    assert torch.equal(frozen.codes(images), nearest)
    rebuilt = frozen.decode_codes(nearest)
    assert torch.equal(rebuilt[1, :, 2, 1], stage.palette[nearest[1, 9]])
    torch.testing.assert_close(stage.reconstruct(images).images, rebuilt)
    assert torch.equal(frozen.codes(rebuilt), nearest)
    with pytest.raises(ConfigError, match="measured"):
        _ = stage.last_layer


@pytest.fixture(scope="module")
def context(shared_cache):
    return make_context(shared_cache)


def make_context(cache, *words):
    small = ["data.source.num_train=40", "data.source.num_val=8", "data.source.num_test=8"]
    small += ["data.resolution=16", "parts.first_stage.colours=24", f"paths.cache={cache}"]
    return Context(compose_spec(["model=autoregressive/image_gpt", "trainer=cpu", *small, *words]))


def test_the_part_measures_the_training_pixels_once(context, tmp_path, shared_cache):
    part, run = context.spec.parts["first_stage"], Run.named(tmp_path, "palette", {}).begin({})
    prepared = part.prepare(context, run)
    palette = prepared.module.autoencoder.palette
    assert prepared.flops > 0 and prepared.facts["distinct_colours"] > 24
    # Better than as many colours evenly spread, by as much as it says.
    images = from_pixels(context.source.split("train").pixels(slice(0, 40)))
    codes = prepared.module.codes(images)
    error = (prepared.module.decode_codes(codes) - images).square().mean()
    assert float(error) == pytest.approx(prepared.facts["mean_squared_error"], rel=1e-4)
    even = part.restore(context, None).autoencoder
    assert error < (even.reconstruct(images).images - images).square().mean() / 4
    # A resumed run reads what it was begun with.
    again = part.prepare(context, run)
    assert torch.equal(again.module.autoencoder.palette, palette)
    assert (again.facts, again.flops, again.seconds) == (
        prepared.facts,
        prepared.flops,
        prepared.seconds,
    )
    # Another run measures the same.
    other = part.prepare(context, Run.named(tmp_path, "other", {}).begin({}))
    assert other.module.fingerprint == prepared.module.fingerprint


def test_a_palette_is_identified_by_its_images_and_how_it_is_measured(context, shared_cache):
    def identity(*words):
        other = make_context(shared_cache, *words)
        return other.spec.parts["first_stage"].identity(other)

    own = context.spec.parts["first_stage"].identity(context)
    assert identity() == own and identity("seed=1") == own
    for word in ("data.source.num_train=39", "parts.first_stage.seed=1"):
        assert identity(word) != own


def test_a_damaged_palette_is_measured_again(context, tmp_path):
    part, run = context.spec.parts["first_stage"], Run.named(tmp_path, "palette", {}).begin({})
    whole = part.prepare(context, run).module.fingerprint
    next(run.path.rglob("palette.safetensors")).write_bytes(b"gone")
    assert part.prepare(context, run).module.fingerprint == whole
