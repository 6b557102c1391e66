"""Prompt files in the formats that their benchmarks publish."""

import json

import pytest

from t2ibench.core.errors import DataError
from t2ibench.data.prompts import is_geneval, read_prompts

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings\n"
    'a sign that says "Hello, world"\tOutdoor Scenes\tWriting & Symbols\t\n'
)
DRAWBENCH = (
    "Prompts,Category\n"
    "A red colored car.,Colors\n"
    '"A stop sign, with the words ""Hello"" on it.",Text\n'
)
GENEVAL = [
    {
        "tag": "counting",
        "include": [{"class": "clock", "count": 3}],
        "exclude": [{"class": "clock", "count": 4}],
        "prompt": "a photo of three clocks",
    },
    {
        "tag": "color_attr",
        "include": [
            {"class": "bench", "count": 1, "color": "brown"},
            {"class": "cup", "count": 1, "color": "red"},
        ],
        "prompt": "a photo of a brown bench and a red cup",
    },
]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_partiprompts(tmp_path):
    first, second = read_prompts(write(tmp_path / "PartiPrompts.tsv", PARTI))
    assert (first.text, first.category, first.meta["Challenge"]) == ("bond", "Abstract", "Basic")
    assert second.text == 'a sign that says "Hello, world"'


def test_drawbench_with_either_heading(tmp_path):
    for heading in ("Prompts", "Prompt"):
        text = DRAWBENCH.replace("Prompts", heading)
        first, second = read_prompts(write(tmp_path / "DrawBench.csv", text))
        assert (first.text, first.category) == ("A red colored car.", "Colors")
        assert second.text == 'A stop sign, with the words "Hello" on it.'


def test_geneval_keeps_each_line_whole(tmp_path):
    lines = "\n".join(json.dumps(row) for row in GENEVAL) + "\n"
    found = read_prompts(write(tmp_path / "evaluation_metadata.jsonl", lines))
    assert [prompt.meta for prompt in found] == GENEVAL
    assert [prompt.category for prompt in found] == ["counting", "color_attr"]
    assert is_geneval(found)


def test_compbench_is_a_prompt_a_line_and_its_file_the_category(tmp_path):
    text = "\ufeffa green bench and a blue bowl\r\n\n  a red\tcar \n"
    found = read_prompts(write(tmp_path / "color_val.txt", text))
    assert [p.text for p in found] == ["a green bench and a blue bowl", "a red car"]
    assert {p.category for p in found} == {"color_val"} and not is_geneval(found)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xff\xfe\x00", "save it as UTF-8"),
        ("a.yaml", b"a ring", "not one of .txt"),
        ("a.csv", b"Text,Category\na ring,x\n", "row 2 has no Prompt or Prompts"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt"', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n', "line 1 has no prompt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_prompts(tmp_path / name)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        read_prompts(tmp_path / "none.txt")
