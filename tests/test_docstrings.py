"""Every loss, sampler, schedule, metric, quantiser and network of a paper says its source."""

import ast
import re
from pathlib import Path

import pytest

import t2ibench

ROOT = Path(t2ibench.__file__).parent
PAPER_FILES = sorted(
    [
        *ROOT.glob("samplers/*.py"),
        *ROOT.glob("families/*/losses.py"),
        *ROOT.glob("families/diffusion/process.py"),
        *ROOT.glob("families/diffusion/denoiser.py"),
        *ROOT.glob("families/*/gan_int_cls.py"),
        *ROOT.glob("families/gan/stack_gan*.py"),
        *ROOT.glob("families/gan/giga_*.py"),
        *ROOT.glob("families/gan/attn_gan*.py"),
        ROOT / "families/gan/stack_gan_v2.py",
        ROOT / "families/damsm.py",
        ROOT / "nn/gated.py",
        ROOT / "nn/regions.py",
        ROOT / "text/damsm.py",
        ROOT / "families/autoregressive/taming_gpt.py",
        ROOT / "families/autoregressive/llama_gen.py",
        ROOT / "families/autoregressive/parti.py",
        ROOT / "families/autoregressive/weight_decay.py",
        ROOT / "nn/row_dropout.py",
        ROOT / "families/autoregressive/image_gpt.py",
        *ROOT.glob("families/autoregressive/pixel_cnn*.py"),
        *ROOT.glob("families/*/ldm.py"),
        *ROOT.glob("families/masked/[!_]*.py"),
        ROOT / "families/diffusion/dit.py",
        ROOT / "families/diffusion/imagen.py",
        ROOT / "families/diffusion/sr3.py",
        ROOT / "families/diffusion/super_resolution.py",
        *ROOT.glob("families/diffusion/clip.py"),
        *ROOT.glob("families/diffusion/unclip*.py"),
        ROOT / "autoencoders/kl.py",
        ROOT / "autoencoders/palette.py",
        ROOT / "autoencoders/vq.py",
        ROOT / "autoencoders/vq_vae.py",
        ROOT / "autoencoders/quantizer.py",
        ROOT / "autoencoders/codebooks.py",
        ROOT / "autoencoders/finite_scalar.py",
        ROOT / "autoencoders/adversarial.py",
        ROOT / "autoencoders/perceptual.py",
        ROOT / "autoencoders/published.py",
        ROOT / "autoencoders/published_blocks.py",
        ROOT / "metrics/frechet.py",
        ROOT / "metrics/kernel.py",
        ROOT / "metrics/neighbours.py",
        ROOT / "nn/batch_norm.py",
        ROOT / "nn/conditioning.py",
        ROOT / "nn/adaptive.py",
        ROOT / "nn/attention.py",
        ROOT / "nn/ema.py",
        ROOT / "nn/embeddings.py",
        ROOT / "text/char_cnn_rnn.py",
        ROOT / "text/joint_embedding.py",
        ROOT / "nn/l2_attention.py",
        ROOT / "text/ldm_bert.py",
    ]
)


def public_things(path):
    """Public functions and network classes at the top level of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", PAPER_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_at_least_one_source_and_every_source_has_its_differences(path):
    docs = {node.name: ast.get_docstring(node) or "" for node in public_things(path)}
    if not docs:
        return
    assert all(docs.values()), f"no docstring: {[n for n, d in docs.items() if not d]}"
    sourced = [name for name, doc in docs.items() if "Source:" in doc]
    assert sourced, f"{path.name} names no source"
    missing = [name for name in sourced if "Differs:" not in docs[name]]
    assert not missing, f"Source without Differs: {missing}"


ROOMS = (
    "core", "text", "data", "metrics", "nn", "runs", "samplers", "autoencoders", "evaluation",
    "interop", "families", "training", "engine", "cli",
)  # fmt: skip
RIDDLES = re.compile(
    r"(Of|As|Where|Up|By|In|With|From|Over|To|For|Per|See|On|At|Before|After|Beside|Between|Under|"
    r"Inside|While|If|When|Whether|What|Which|Who|How|Why|Not|Also|That|Likewise)\b"
)
"""Openings that leave open what the thing is or does."""


def docstrings(body):
    """Line and text of every docstring, also those below constants."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, ast.get_docstring(node) or ""
            yield from docstrings(node.body)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            text = getattr(after.value, "value", None)
            if isinstance(text, str):
                yield after.lineno, text


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_begin_with_what_the_thing_is_or_does(room):
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        for line, text in [(1, ast.get_docstring(module) or ""), *docstrings(module.body)]:
            if RIDDLES.match(text.strip()):
                found.append(f"{path.relative_to(ROOT)}:{line} {text.strip().splitlines()[0]}")
    assert not found, found
