"""Prompt files in the formats that their benchmarks publish."""

import json

import pytest

from t2ibench.core.errors import DataError
from t2ibench.data.prompts import benchmark_of, read_prompts

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
    assert benchmark_of(found) == "geneval"


def test_compbench_is_a_prompt_a_line_and_its_file_the_category(tmp_path):
    text = "\ufeffa green bench and a blue bowl\r\n\n  a red\tcar \n"
    found = read_prompts(write(tmp_path / "color_val.txt", text))
    assert [p.text for p in found] == ["a green bench and a blue bowl", "a red car"]
    assert {p.category for p in found} == {"color_val"} and benchmark_of(found) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xff\xfe\x00", "save it as UTF-8"),
        ("a.txt", b"ein Flu\xdf\n", r"line 1 is not UTF-8 \(byte 0xdf\); save it as UTF-8"),
        ("a.csv", b"Prompt\na ring, red\n", "line 2 has more cells than the header"),
        ("a.csv", b'Prompt\n"a 5" ring"\n', "line 2 cannot be read"),
        ("a.csv", b"item_id,text\n../x,a ring\n", "line 2 has the id '../x'"),
        ("a.csv", b"category,id,prompt_en\nAnimals,000,a\n", "line 2 has category=Animals"),
        ("a.yaml", b"a ring", "not one of .txt"),
        ("a.csv", b"Text,Category\na ring,x\n", "line 2 has no Prompt or Prompts"),
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


def test_geneval2_keeps_each_line_whole(tmp_path):
    row = {
        "prompt": "four white bicycles in front of three plastic cows",
        "atom_count": 7,
        "vqa_list": [["How many bicycles are in the image?", "four"]],
        "skills": ["count"],
    }
    (found,) = read_prompts(write(tmp_path / "geneval2_data.jsonl", json.dumps(row)))
    assert (found.text, found.category, found.meta) == (row["prompt"], "atomicity 7", row)
    assert benchmark_of([found]) == "geneval2"


def test_oneig_in_english_and_chinese(tmp_path):
    english = (
        "category,id,prompt_en,type,prompt_length,class\n"
        'Portrait,007,"a man, smiling","T, P",short,\n'
        "Text_Rendering,000,a sign,NP,short,\n"
    )
    found = read_prompts(write(tmp_path / "OneIG-Bench.csv", english))
    assert [p.text for p in found] == ["a man, smiling", "a sign"]
    assert [p.category for p in found] == ["Portrait", "Text_Rendering"]
    assert found[0].meta["id"] == "007" and benchmark_of(found) == "oneig"
    chinese = "category,id,prompt_cn,class\nMultilingualism,003,\u4e00\u4e2a\u5706,\n"
    (found,) = read_prompts(write(tmp_path / "OneIG-Bench-ZH.csv", chinese))
    assert found.text == "\u4e00\u4e2a\u5706" and benchmark_of([found]) == "oneig"


def test_ones_own_table_with_an_id_is_no_benchmark(tmp_path):
    found = read_prompts(write(tmp_path / "a.csv", "id,category,Prompt\n1,animals,a cat\n"))
    assert found[0].category == "animals" and benchmark_of(found) is None


def test_dpg_bench_as_a_folder_and_as_a_table(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, text in (("10", "a cat"), ("9", "a dog\non a mat\n"), ("COCOval", "a bird")):
        write(folder / f"{name}.txt", text)
    (folder / "._9.txt").write_bytes(b"\xff")
    found = read_prompts(folder)
    assert [(p.meta["item_id"], p.text) for p in found] == [
        ("9", "a dog on a mat"), ("10", "a cat"), ("COCOval", "a bird"),
    ]  # fmt: skip
    assert benchmark_of(found) == "dpg_bench"
    table = (
        "item_id,text,keywords,proposition_id,dependency\n"
        '9,"a dog, on a mat",,1,0\n9,"a dog, on a mat",,2,1\n10,a cat,,1,0\n'
    )
    found = read_prompts(write(tmp_path / "dpg_bench.csv", table))
    assert [p.text for p in found] == ["a dog, on a mat", "a cat"]
    assert [p.meta["item_id"] for p in found] == ["9", "10"]
    with pytest.raises(DataError, match="holds no prompt"):
        (tmp_path / "empty").mkdir()
        read_prompts(tmp_path / "empty")


def test_only_line_breaks_end_prompts(tmp_path):
    text = "one\u2028two\nthree\n"
    for name, content in (("a.txt", text), ("a.csv", f"Prompt\n{text}")):
        found = read_prompts(write(tmp_path / name, content))
        assert [p.text for p in found] == ["one two", "three"]
