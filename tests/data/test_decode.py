import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.data.decode import Decoder, DecodeReport
from t2ibench.data.resize import ResizeRecipe

RED, GREEN = (255, 0, 0), (0, 255, 0)


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(raw, **options):
    report = DecodeReport()
    image = Decoder(**options)(raw, "x", report)
    return image, report


def two_halves(size=(20, 10)):
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (0, 0, size[0] // 2, size[1]))
    return image


def test_plain_rgb_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    image, report = decode(encode(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(np.asarray(image), pixels)
    assert report.to_dict() == {"decoded": 1, "treated": {}, "refused": {}}


def test_exif_orientation_6_turns_the_image_a_quarter_clockwise():
    exif = Image.Exif()
    exif[0x0112] = 6
    image, report = decode(encode(two_halves(), "PNG", exif=exif))
    assert image.size == (10, 20)
    assert image.getpixel((5, 2)) == GREEN and image.getpixel((5, 17)) == RED
    assert report.treated == {"exif": 1}


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
def test_hidden_colours_never_show(background):
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    hidden.putpixel((1, 1), (0, 255, 0, 255))
    image, report = decode(encode(hidden, "PNG"), background=background)
    assert image.getpixel((0, 0)) == background and image.getpixel((1, 1)) == GREEN
    assert report.treated == {"alpha": 1}


def test_palette_with_a_transparent_entry_is_composited():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((2, 2), 1)
    image, _ = decode(encode(palette, "PNG", transparency=0))
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((2, 2)) == GREEN
    opaque, report = decode(encode(palette, "PNG"))
    assert opaque.getpixel((0, 0)) == RED and report.treated == {"palette": 1}


def test_half_transparent_grey_is_blended():
    image, _ = decode(encode(Image.new("LA", (2, 2), (0, 128)), "PNG"))
    assert image.getpixel((0, 0)) == (127, 127, 127)


def test_sixteen_bit_grey_is_scaled_over_its_whole_range():
    values = np.array([[0, 257 * 100, 65535, 32768]], dtype=np.uint16)
    image, report = decode(encode(Image.fromarray(values), "PNG"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 100, 255, 128]
    assert report.treated == {"16 bit": 1}


@pytest.mark.parametrize(("mode", "name"), [("L", "grey"), ("1", "grey"), ("CMYK", "cmyk")])
def test_other_modes_become_rgb_of_the_same_colour(mode, name):
    source = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    image, report = decode(encode(source, "TIFF"))
    assert image.mode == "RGB" and np.asarray(image).min() == 255
    assert report.treated == {name: 1}


def test_cmyk_jpeg_keeps_its_colour():
    image, _ = decode(encode(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG"))
    red, green, blue = image.getpixel((8, 8))
    assert red > 240 and green < 15 and blue < 15


def test_animated_gives_the_first_frame():
    frames = [Image.new("RGB", (6, 6), colour) for colour in (RED, GREEN)]
    raw = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    image, report = decode(raw)
    assert image.getpixel((3, 3)) == RED and report.treated["first frame"] == 1


def noise_jpeg():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "JPEG")


BROKEN = {
    "truncated jpeg": noise_jpeg()[:1500],
    "truncated png": encode(two_halves((200, 200)), "PNG")[:100],
    "zero bytes": b"",
    "text": b"<html>404</html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "float": encode(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_skipped_counted_and_named_or_raised(name):
    image, report = decode(BROKEN[name])
    assert image is None
    assert report.decoded == 0 and list(report.refused) == ["x"] and report.refused["x"]
    with pytest.raises(DataError, match="image x: "):
        decode(BROKEN[name], policy="raise")


def test_a_missing_file_is_refused_and_a_bomb_never_decoded(tmp_path):
    assert decode(tmp_path / "none.png")[1].refused["x"]
    image, report = decode(encode(Image.new("1", (3000, 3000)), "PNG"), max_pixels=10**6)
    assert image is None and "limit of 1000000" in report.refused["x"]


def test_too_many_refused_stop_the_reader():
    report = DecodeReport(decoded=98, refused={"a.jpg": "the file is empty", "b": "z"})
    report.check_share("set", 0.02)
    with pytest.raises(DataError, match=r"2 of 100 .*a\.jpg: the file is empty"):
        report.check_share("set", 0.019)


def test_resize_takes_the_centre_square():
    image = Image.new("RGB", (30, 10), RED)
    image.paste(GREEN, (10, 0, 20, 10))
    square = ResizeRecipe(5)(image)
    assert square.shape == (3, 5, 5)
    assert (square[1, :, 1:-1] == 255).all() and (square[0, :, 1:-1] == 0).all()
    whole = np.asarray(image.resize((15, 5), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(square, whole[:, :, 5:10])


@pytest.mark.parametrize("name", ["bicubic", "lanczos"])
def test_resize_is_antialiased_and_keeps_the_right_size_as_it_is(name):
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = np.repeat(checker[..., None], 3, -1).astype(np.uint8)
    small = ResizeRecipe(8, name)(Image.fromarray(pixels))
    assert np.abs(small[:, 1:-1, 1:-1].astype(int) - 127).max() <= 2
    same = ResizeRecipe(64, name)(Image.fromarray(pixels))
    assert np.array_equal(same, pixels.transpose(2, 0, 1))


def test_unknown_filters_are_refused():
    with pytest.raises(ConfigError, match="bicubic, lanczos"):
        ResizeRecipe(0)


# ---- any decoder's exception is a counted refusal ----

SMALL = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8))
WHOLE = {
    "png": encode(SMALL, "PNG"),
    "jpeg": encode(SMALL, "JPEG"),
    "webp": encode(SMALL, "WEBP"),
    "avif": encode(SMALL, "AVIF"),
    "gif": encode(SMALL, "GIF"),
    "animated gif": encode(
        SMALL.convert("P"), "GIF", save_all=True, append_images=[SMALL.convert("P").rotate(90)]
    ),
    "animated webp": encode(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(90)]),
    "bmp": encode(SMALL, "BMP"),
    "tiff": encode(SMALL, "TIFF"),
    "compressed tiff": encode(SMALL, "TIFF", compression="tiff_lzw"),
    "ppm": encode(SMALL, "PPM"),
}
MUTANTS = {"avif": 150}
"""Mutants of a format; the others have ``MANY``."""
MANY = 600


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WHOLE)
def test_mutants_of_every_format_are_decoded_or_refused_and_never_escape(name):
    draw = np.random.default_rng(len(name))
    report, count = DecodeReport(), MUTANTS.get(name, MANY)
    for number in range(count):
        raw = bytearray(WHOLE[name])
        for _ in range(draw.integers(1, 7)):
            within = min(len(raw), int(draw.choice([64, 400, len(raw)])))
            raw[draw.integers(within)] = draw.integers(256)
        if draw.random() < 0.3:
            del raw[draw.integers(len(raw)) :]
        image = Decoder(max_pixels=10**6)(bytes(raw), str(number), report)
        assert image is None or image.mode == "RGB"
    assert report.decoded + len(report.refused) == count
    assert report.refused and all(report.refused.values())


def test_a_broken_later_frame_does_not_cost_the_first():
    raw = bytearray(WHOLE["animated gif"])
    del raw[len(raw) - len(raw) // 4 :]
    image, report = decode(bytes(raw))
    assert image is not None and not report.refused


@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 999])
def test_each_exif_orientation_is_that_of_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encode(SMALL.crop((0, 0, 24, 10)), "PNG", exif=exif)
    image, _ = decode(raw)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_of_any_bytes_never_costs_the_image(format):
    draw = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    whole = exif.tobytes()
    for _ in range(200):
        cut = bytearray(whole)
        for _ in range(draw.integers(1, 6)):
            cut[draw.integers(6, len(cut))] = draw.integers(256)
        raw = encode(SMALL, format, exif=bytes(cut))
        assert decode(raw)[0] is not None
