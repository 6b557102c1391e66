from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toy_networks import make_split

from t2ibench.core.errors import ScoreError
from t2ibench.data.folder import FolderSource
from t2ibench.data.records import PreparedSplit
from t2ibench.data.shapes.source import ShapesSource
from t2ibench.evaluation.protocol import Protocol, bare_name


def protocol(**changes):
    fields = {"name": "dev", "split": "test", "num_images": 8, "sampling_seed": 0}
    return Protocol(**(fields | changes))


def test_prompts_depend_on_keys_not_on_order():
    split = make_split("test", 40)
    order = list(range(40))[::-1]
    turned = PreparedSplit("toy/test", split.images[order], [split.records[i] for i in order])
    first, second = protocol().prompts(split), protocol().prompts(turned)
    assert first.keys == second.keys and first.seeds == second.seeds
    assert [split.records[i].key for i in first.indices] == list(first.keys)


def test_more_images_extend_the_same_prompts():
    split = make_split("test", 40)
    few, many = protocol().prompts(split), protocol(num_images=20).prompts(split)
    assert many.keys[:8] == few.keys and many.seeds[:8] == few.seeds


def test_repeats_keep_the_key_and_get_new_seeds():
    prompts = protocol(num_images=25).prompts(make_split("test", 10))
    assert len(set(prompts.keys)) == 10 and len(set(prompts.seeds)) == 25
    assert prompts.keys[0] == prompts.keys[10] == prompts.keys[20]


def test_the_sampling_seed_changes_seeds_and_not_prompts():
    split = make_split("test", 40)
    first, second = protocol().prompts(split), protocol(sampling_seed=1).prompts(split)
    assert first.keys == second.keys and not set(first.seeds) & set(second.seeds)


def test_seeded_captions_use_every_caption():
    prompts = protocol(caption="seeded", num_images=40).prompts(make_split("test", 40))
    assert {c.startswith("picture of") for c in prompts.captions} == {True, False}


def test_reference_defaults_to_as_many_of_the_same_split():
    made = protocol()
    assert (made.reference_split, made.reference_size) == ("test", 8)
    split = make_split("test", 40)
    shared = protocol(reference_records="shared")
    assert shared.reference(split) == shared.prompts(split).indices
    assert made.prompts(split) == shared.prompts(split)


@given(
    size=st.integers(2, 60),
    count=st.integers(1, 80),
    reference=st.integers(-1, 60),
    caption=st.sampled_from(["first", "seeded", "every"]),
)
def test_a_disjoint_reference_holds_no_record_of_a_prompt(size, count, reference, caption):
    split = make_split("test", size)
    asked = protocol(num_images=count, reference_size=reference, caption=caption)
    if asked.resolved(split).reference_records == "shared":
        with pytest.raises(ScoreError, match=r"reference_records=shared|and .* are asked for"):
            replace(asked, reference_records="disjoint").reference(split)
        return
    prompts, real = asked.prompts(split), asked.reference(split)
    assert len(prompts) == count and not set(prompts.indices) & set(real)
    assert len(real) == (reference or count) or reference == -1
    # As many distinct records as the split can give beside the reference, at least half of it.
    if caption != "every":
        assert len(set(prompts.indices)) >= min(count, size // 2)


def test_where_the_split_is_too_small_the_reference_is_shared_and_says_so():
    small = make_split("test", 14)
    assert protocol().resolved(small).reference_records == "shared"
    assert protocol().resolved(make_split("test", 16)).reference_records == "disjoint"
    assert (
        protocol(num_images=4, reference_size=10).resolved(small).to_dict()["reference_records"]
        == "disjoint"
    )
    with pytest.raises(ScoreError, match=r"toy/test has 14 images.*8 prompts and 8 reference"):
        protocol(reference_records="disjoint").prompts(small)
    other = protocol(reference_split="val")
    assert other.resolved(make_split("val", 8)).reference_records == "disjoint"
    assert (
        other.prompts(small).indices == protocol(reference_records="shared").prompts(small).indices
    )


def test_where_r_precision_is_promised_the_reference_is_not_bought_with_its_captions():
    split = make_split("test", 112)
    asked = protocol(num_images=104, reference_size=-1, r_precision_folds=2)
    assert asked.resolved(split).reference_records == "shared"
    assert len(set(asked.prompts(split).captions)) == 104
    assert replace(asked, r_precision_folds=0).resolved(split).reference_records == "disjoint"
    # Captions enough on both sides, or on neither: nothing is taken away.
    assert asked.resolved(make_split("test", 208)).reference_records == "disjoint"
    assert replace(asked, num_images=8).resolved(split).reference_records == "disjoint"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images=0"),
        ({"reference_size": -2}, "reference_size=-2"),
    ],
)
def test_impossible_protocols(changes, message):
    with pytest.raises(ScoreError, match=message):
        protocol(**changes)


def test_every_caption_is_a_prompt_before_any_repeats():
    split = make_split("test", 10)
    prompts = protocol(caption="every", num_images=25).prompts(split)
    first = set(zip(prompts.keys[:20], prompts.captions[:20], strict=True))
    assert first == {(r.key, c) for r in split.records for c in r.captions}
    assert prompts.captions[20:] == prompts.captions[:5] and len(set(prompts.seeds)) == 25
    assert all(
        split.records[i].key == k for i, k in zip(prompts.indices, prompts.keys, strict=True)
    )


def test_the_whole_split_can_be_the_reference():
    whole = protocol(reference_size=-1, reference_records="shared")
    assert sorted(whole.reference(make_split("test", 12))) == list(range(12))


def test_images_prepared_in_another_way_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a black square")

    def folder(side, filter="bicubic"):
        return FolderSource(
            tmp_path, cache_dir=tmp_path, resolution=side, name="mine", filter=filter
        )

    asked = protocol(resolution=256, crop="centre", resize="lanczos")
    asked.check_source(folder(256, "lanczos"))
    with pytest.raises(ScoreError, match="images of 256 px, data mine has 64 px"):
        asked.check_source(folder(64, "lanczos"))
    with pytest.raises(ScoreError, match="by lanczos-centre, data mine was prepared by bicubic"):
        asked.check_source(folder(256))
    drawn = ShapesSource(resolution=256, cache_dir=tmp_path)
    with pytest.raises(ScoreError, match="prepared by unknown"):
        asked.check_source(drawn)
    protocol().check_source(drawn)


def test_the_protocols_extractor_must_be_there():
    asked = protocol(extractor="inception-v3-tf2015@2048|tf1-bilinear-299")
    asked.check_extractors(["a@1|b", "inception-v3-tf2015@2048|tf1-bilinear-299"])
    with pytest.raises(ScoreError, match="the evaluator has a@1"):
        asked.check_extractors(["a@1|b"])
    protocol().check_extractors([])


def test_wrong_split_or_size_is_refused():
    split = make_split("val", 40)
    with pytest.raises(ScoreError, match="draws prompts from split test, got toy/val"):
        protocol().prompts(split)
    with pytest.raises(ScoreError, match="compares with split test"):
        protocol().reference(split)
    with pytest.raises(ScoreError, match="6 images and 8 are asked"):
        protocol().reference(make_split("test", 6))


def test_a_set_of_another_protocol_is_refused():
    split = make_split("test", 40)
    prompts = protocol().prompts(split)
    samples = prompts.answered_by(split.pixels(prompts.indices), {"protocol": protocol().to_dict()})
    protocol().check(samples)
    with pytest.raises(ScoreError, match="scores 9 images, the set has 8"):
        protocol(num_images=9).check(samples)
    with pytest.raises(ScoreError, match=r"protocol\.split=test, the protocol dev says val"):
        protocol(split="val").check(samples)


def test_bare_names():
    assert [bare_name(n) for n in ("test", "a/test", "a/test[:5]")] == ["test"] * 3
