"""Which networks judge which data set, and what is said where one is missing."""

import pytest

from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError, MissingWeightsError, ScoreError
from t2ibench.engine import judges
from t2ibench.engine.context import Context
from t2ibench.engine.feasibility import check_judges
from t2ibench.engine.judges import EmbeddedEncoder, dual_encoders

CLIPS = "evaluator/dual_encoder=[openai_clip_vit_l14,open_clip_vit_b32]"


@pytest.mark.parametrize(
    ("data", "source", "expected"),
    [
        ("shapes", "shapes", "shapes-clip-v1"),
        ("emoji_styles", "emoji_styles_compose", "emoji_styles-clip-v1"),
        ("emoji_styles", "emoji_styles_zeroshot", None),
        ("folder", "shapes", None),
    ],
)
def test_no_encoder_judges_images_that_it_was_trained_on(data, source, expected):
    assert EmbeddedEncoder().chosen(data, source) == expected
    assert EmbeddedEncoder("shapes-clip-v1").chosen(data, source) == "shapes-clip-v1"


def test_an_encoder_is_named_or_switched_off():
    named = "evaluator.dual_encoders.embedded.name=emoji_styles-clip-v1"
    words = ["evaluator/dual_encoder=[]"], [named], []
    for chosen, expected in zip(
        words, ([], ["emoji_styles-clip-v1"], ["shapes-clip-v1"]), strict=True
    ):
        spec = compose_spec(chosen)
        found = dual_encoders(spec, Context.of(spec).source)
        assert [encoder.name for encoder in found] == expected


def test_any_mix_is_a_list_whose_first_is_the_main_one():
    words = ["evaluator/extractor=[dinov2,efficientnet]", CLIPS]
    chosen = compose_spec(words).evaluator
    assert list(chosen.extractors) == ["dinov2", "efficientnet"]
    assert list(chosen.dual_encoders) == ["openai_clip_vit_l14", "open_clip_vit_b32"]
    published = compose_spec(["evaluator=published"]).evaluator
    assert list(published.extractors) == ["inception", "dinov2", "efficientnet"]
    assert len(published.dual_encoders) == 3
    for wrong in ("[foo]", "foo", "[embedded,foo]"):
        with pytest.raises(ConfigError, match=r"evaluator/dual_encoder=foo is unknown; choose one"):
            compose_spec([f"evaluator/dual_encoder={wrong}"])


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """A machine without published weights."""
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    for name in ("INCEPTION", "CLIP", "CLIP_336", "OPEN_CLIP", "DINOV2"):
        monkeypatch.delenv(f"T2IBENCH_{name}", raising=False)


def judged(*words):
    spec = compose_spec(list(words))
    check_judges(Context.of(spec), judges.test_protocol(spec.protocol))


def test_what_is_missing_is_named_with_the_command_that_brings_it(no_weights):
    with pytest.raises(MissingWeightsError) as told:
        judged("evaluator=published")
    assert "`t2ibench fetch inception dinov2 clip_336 open_clip`" in str(told.value)
    with pytest.raises(MissingWeightsError, match="`t2ibench fetch open_clip`.*T2IBENCH_OPEN_CLIP"):
        judged("evaluator/dual_encoder=[open_clip_vit_b32]")
    with pytest.raises(MissingWeightsError, match="`t2ibench fetch clip`"):
        judged("evaluator/dual_encoder=[openai_clip_vit_l14,embedded]")
    judged()


def test_promised_r_precision_needs_a_judge_before_any_work():
    promised = "protocol.r_precision_folds=10"
    with pytest.raises(ScoreError, match=r"promises R-precision.*evaluator=published"):
        judged(promised, "evaluator/dual_encoder=[]")
    judged(promised)
    judged("evaluator/dual_encoder=[]")


def test_training_does_not_begin_without_its_judges(no_weights, tmp_path, capsys):
    from t2ibench.cli.main import main

    words = [f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache", "budget=images",
             "budget.amount=8", "data.source.num_train=16", "evaluator=published"]  # fmt: skip
    assert main(["train", *words]) == 2
    assert "t2ibench fetch inception" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
