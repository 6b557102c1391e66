"""Which dual encoder judges which data set."""

import pytest

from t2ibench.engine.judges import dual_encoders


@pytest.mark.parametrize(
    ("data", "source", "expected"),
    [
        ("shapes", "shapes", ["shapes-clip-v1"]),
        ("emoji_styles", "emoji_styles_compose", ["emoji_styles-clip-v1"]),
        ("emoji_styles", "emoji_styles_zeroshot", []),
        ("folder", "shapes", []),
    ],
)
def test_no_encoder_judges_images_that_it_was_trained_on(data, source, expected):
    found = dual_encoders("auto", data, source)
    assert [encoder.name for encoder in found] == expected


def test_an_encoder_is_named_or_switched_off():
    for wanted, expected in ((None, []), ("shapes-clip-v1", ["shapes-clip-v1"])):
        found = dual_encoders(wanted, "x", "x")
        assert [encoder.name for encoder in found] == expected
