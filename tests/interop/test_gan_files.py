"""Published files of the GAN line: names, sentences, and images equal to those of the weights."""

import json
import pickle

import pytest
import torch
from interop.test_verbs import refused
from text.tiny import save_t5
from torch import nn

from t2ibench.cli.main import main
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.load import open_folder
from t2ibench.families.damsm import DAMSM
from t2ibench.families.gan.attn_gan_networks import Generator
from t2ibench.families.gan.stack_gan_v2 import Generator as StackGANv2Generator
from t2ibench.interop.gan_files import parts_of
from t2ibench.interop.tensor_names import to_published
from t2ibench.nn.regions import InceptionRegions
from t2ibench.reporting.render.grid import GAP, LABEL_WIDTH, PADDING, SMALLEST_FONT
from t2ibench.text.language import T5TextEncoder

WORDS = [f"word{i}" for i in range(30)] + ["red", "bird"]
PROMPTS = ["a red bird word3", "bird"]


def attn_generator():
    torch.manual_seed(0)
    return Generator(
        resolution=32,
        text_width=16,
        conditioning="cross_attention",
        channels=4,
        residual_blocks=2,
        noise_width=6,
        condition_width=5,
    )


def text_encoder(image=None):
    torch.manual_seed(1)
    return DAMSM(
        vocabulary=WORDS,
        width=16,
        embedding_width=6,
        max_length=18,
        dropout=0.5,
        image=image,
        gamma1=4.0,
        gamma2=5.0,
        gamma3=10.0,
    )


def moved(network):
    """Running averages away from where they begin."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return network.eval()


def published(network, kind, counters=False):
    """A state dict as the authors' PyTorch wrote it."""
    own = network.state_dict()
    if kind == "damsm_image":
        names = {n.removeprefix("layers."): t for n, t in own.items()}
    else:
        names = {}
    found = to_published(own, parts_of(kind, names))
    return {n: t for n, t in found.items() if counters or "num_batches" not in n}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    generator, damsm = moved(attn_generator()), text_encoder()
    torch.save(published(generator, "attn_gan"), folder / "netG.pth")
    torch.save(published(damsm.text, "damsm_text"), folder / "text_encoder.pth")
    numbered = {0: "<end>"} | {i + 1: word for i, word in enumerate(WORDS)}
    captions = [[[1, 2]], [[3]], numbered, {word: i for i, word in numbered.items()}]
    (folder / "captions.pickle").write_bytes(pickle.dumps(captions, protocol=2))
    (folder / "words.json").write_text(json.dumps(WORDS))
    return folder


def words(folder, out, *extra):
    return ["import", *(str(folder / n) for n in ("netG.pth", "text_encoder.pth")),
            f"vocabulary={folder / 'captions.pickle'}", f"out={out}", *extra]  # fmt: skip


def test_an_imported_attn_gan_draws_the_images_of_its_weights(folder, tmp_path, capsys):
    out = tmp_path / "birds"
    assert main(words(folder, out)) == 0
    loaded = open_folder(out)
    assert loaded.spec.data.resolution == 32
    images = loaded.module.generate(PROMPTS, SeededNoise([3, 4]))
    text = text_encoder().text.eval().encode(PROMPTS)
    draws = SeededNoise([3, 4]).normal(11)
    with torch.no_grad():
        wanted = moved(attn_generator())
        # The same running averages: their draws follow the weights'.
        torch.manual_seed(0)
        wanted = moved(attn_generator())(text, draws).images[-1]
    torch.testing.assert_close(images, wanted)
    assert main(["sample", str(out), PROMPTS[0], f"out={tmp_path / 'pictures'}",
                 f"attention={tmp_path / 'words.png'}"]) == 0  # fmt: skip
    from PIL import Image

    sheet = Image.open(tmp_path / "words.png")
    # Two layers, the image and three known words (there is no "a").
    beside = sheet.width - 2 * PADDING + GAP - 4 * (128 + GAP)
    above = sheet.height - 2 * PADDING + GAP - 2 * (128 + GAP)
    assert 0 < beside <= LABEL_WIDTH * SMALLEST_FONT + 2 * GAP and 0 < above < 128
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["imported"]["format"] == "attn_gan"
    told = refused(["train", "model=gan/attn_gan", f"start={out}", "data.resolution=32"], capsys)
    assert "start" in told


def test_the_image_encoder_is_read_where_it_is_given(folder, tmp_path):
    torch.manual_seed(2)
    image = moved(InceptionRegions(width=16))
    torch.save(published(image, "damsm_image", counters=True), tmp_path / "image_encoder.pth")
    out = tmp_path / "birds"
    given = words(folder, out)
    assert main([given[0], str(tmp_path / "image_encoder.pth"), *given[1:]]) == 0
    kept = open_folder(out).module.damsm.network.image
    pixels = torch.zeros(1, 3, 32, 32)
    for one, other in zip(kept(pixels), image(pixels), strict=True):
        torch.testing.assert_close(one, other)


def test_missing_and_surplus_tensors_are_named(folder, tmp_path, capsys):
    state = torch.load(folder / "netG.pth", weights_only=True)
    del state["h_net3.residual.1.block.0.weight"]
    torch.save(state | {"h_net9.extra": torch.zeros(3)}, tmp_path / "netG.pth")
    given = words(folder, tmp_path / "out")
    told = refused([given[0], str(tmp_path / "netG.pth"), *given[2:]], capsys)
    assert "1 missing (h_net3.residual.1: 1, h_net3.residual.1.block.0.weight)" in told
    assert "1 surplus (h_net9.extra" in told
    assert not (tmp_path / "out").exists()


def test_a_network_in_data_parallel_and_a_list_of_words_are_read(folder, tmp_path):
    state = torch.load(folder / "netG.pth", weights_only=True)
    torch.save({f"module.{n}": t for n, t in state.items()}, tmp_path / "netG.pth")
    given = words(folder, tmp_path / "out")
    given[1], given[3] = str(tmp_path / "netG.pth"), f"vocabulary={folder / 'words.json'}"
    assert main(given) == 0


class Command:
    def __reduce__(self):
        return print, ("ran",)


def test_what_is_no_such_file_is_refused_in_one_sentence(folder, tmp_path, capsys):
    given = words(folder, tmp_path / "out")
    told = refused([given[0], given[1], given[4]], capsys)
    assert "give its text encoder" in told
    told = refused([*given[:3], given[4]], capsys)
    assert "vocabulary=captions.pickle" in told
    (tmp_path / "few.txt").write_text("one two")
    told = refused([*given[:3], f"vocabulary={tmp_path / 'few.txt'}", given[4]], capsys)
    assert "has 2 words and text_encoder.pth vectors of 32" in told
    (tmp_path / "bad.pickle").write_bytes(pickle.dumps([Command()]))
    told = refused([*given[:3], f"vocabulary={tmp_path / 'bad.pickle'}", given[4]], capsys)
    assert "could run code" in told
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "other.pth")
    told = refused([given[0], str(tmp_path / "other.pth"), *given[1:]], capsys)
    assert "is neither a generator" in told
    (tmp_path / "stylegan_t.pkl").write_bytes(pickle.dumps(Command()))
    told = refused(["import", str(tmp_path / "stylegan_t.pkl"), given[4]], capsys)
    assert "is a pickled network (StyleGAN-T's format)" in told and "ran" not in told


def test_an_imported_stack_gan_v2_draws_the_images_of_its_weights(tmp_path, capsys):
    save_t5(tmp_path / "t5")
    encoder = ["text=t5", f"text.path={tmp_path / 't5'}"]
    text = T5TextEncoder(
        model="tiny/t5", path=tmp_path / "t5", max_length=128, padding="longest", dtype="bfloat16"
    )
    torch.manual_seed(0)
    generator = moved(
        StackGANv2Generator(
            resolution=32,
            text_width=text.width,
            conditioning="concat",
            channels=8,
            residual_blocks=1,
            noise_width=6,
            condition_width=5,
        )
    )
    torch.save(published(generator, "stack_gan_v2"), tmp_path / "netG.pth")
    given = ["import", str(tmp_path / "netG.pth"), f"out={tmp_path / 'birds'}"]
    assert main([*given, *encoder]) == 0
    loaded = open_folder(tmp_path / "birds")
    assert loaded.spec.model.name == "gan/stack_gan_v2"
    images = loaded.module.generate(PROMPTS, SeededNoise([3, 4]))
    with torch.no_grad():
        wanted = generator(text.encode(PROMPTS), SeededNoise([3, 4]).normal(11)).images[-1]
    torch.testing.assert_close(images, wanted)
    given[2] = f"out={tmp_path / 'other'}"
    told = refused([*given, "text=word_lstm"], capsys)
    assert "text=word_lstm is trained with a generator" in told
