"""Configuration keys that messages name are keys that exist."""

import ast
import re
from pathlib import Path

from surface import SURFACE

ROOT = Path(__file__).parents[2]
SECTIONS = "model|data|text|budget|trainer|protocol|evaluator|study|paths|logger|parts"
KEY = re.compile(rf"(?<![\w./`{{])(?:{SECTIONS})(?:\.[a-z_]+)+(?=[=,;:.) ]|$)")
OTHERS = {"model.safetensors", "model.given"}
"""A file and a field of scores, which look like keys."""


def known():
    """Every key, and the sections and mappings above it."""
    keys = {line.split()[1] for line in SURFACE.read_text().splitlines() if line[:4] == "key "}
    above = {key.rsplit(".", n)[0] for key in keys for n in range(1, key.count(".") + 1)}
    return keys | above


def messages():
    """Strings that an exception is raised with."""
    for path in sorted((ROOT / "t2ibench").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for part in ast.walk(node.exc):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path.relative_to(ROOT)}:{part.lineno}", part.value


def test_messages_name_keys_that_exist():
    keys, wrong, count = known(), [], 0
    for place, text in messages():
        for found in KEY.findall(text):
            count += 1
            key = found.rstrip(".")
            # A part that an example's data set or model alone has: text.encoder.X, data.source.X.
            if key in OTHERS:
                continue
            if key not in keys and not any(k.endswith(key.split(".", 1)[1]) for k in keys):
                wrong.append(f"{place}: {key}")
    assert count > 60
    assert not wrong, "\n".join(wrong)
