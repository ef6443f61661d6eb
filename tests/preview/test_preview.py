"""What `datago-gpu preview` draws is what the loader delivers, and where it says it was cut from."""

from __future__ import annotations

import io
import json
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.config import ImageConfig, LoaderConfig
from datago_gpu.decoders.output_format import OutputFormat
from datago_gpu.errors import ConfigError, DatagoError
from datago_gpu.preview import Overview, gather, write_page, write_sheet
from datago_gpu.preview.gather import Panel, ShownBatch, ShownSample, title_of
from datago_gpu.preview.masks import colour_of, kind_of_mask, overlay_mask
from datago_gpu.preview.pictures import CROP_INK, fit_area, mask_levels, outline_crops, to_picture
from datago_gpu.preview.text import caption_of, shorten, shorten_middle, single_line
from datago_gpu.server import DataroomServer
from tests.support.commands import run_command
from tests.support.images import add_picture
from tests.support.pictures import encode

NASTY = '<script>alert("1")</script> & "quoted" \u202e\n'


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures whose colours tell where a pixel was, with masks, a further image, and odd words."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(8):
        height, width = [(90, 160), (160, 90), (100, 100), (60, 200)][number % 4]
        down, across = np.mgrid[0:height, 0:width]
        pixels = np.stack([across * 255 // width, down * 255 // height, np.full_like(down, 30 * number)], -1)
        name = f"{number:03}"
        picture = Image.fromarray(pixels.astype(np.uint8))
        picture.save(root / f"{name}.png")
        picture.resize((width // 2, height // 2)).save(root / f"{name}_img.png")
        cut_out = Image.new("L", (width, height))
        cut_out.paste(255, (0, 0, width // 2, height))
        cut_out.save(root / f"{name}_cut.png")
        latents: list[dict[str, Any]] = [
            {"latent_type": "cut", "file": f"{name}_cut.png", "is_mask": True},
            {"latent_type": "image_half", "file": f"{name}_img.png", "is_mask": False},
        ]
        if number % 2:
            labels = np.repeat(np.arange(width) * 4 // width, height).reshape(width, height).T.astype(np.uint8)
            Image.fromarray(labels).save(root / f"{name}_lab.png")
            latents.append({"latent_type": "lab", "file": f"{name}_lab.png", "is_mask": True})
        words = {"id": f"{'long-' * 30}{number}", "attributes": {"caption": NASTY * 4}, "tags": ["<b>tag</b>"]}
        (root / f"{name}.json").write_text(json.dumps({"latents": latents, **(words if number == 3 else {})}))
    return root


def settings(server: DataroomServer, **image: Any) -> dict[str, Any]:
    source = {"api_url": server.url, "api_key": server.key, "has_masks": "cut", "has_latents": "image_half"}
    return {
        "source_config": {**source, "optional_masks": "lab"},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16, **image},
        "batch_size": 2,
    }


@pytest.mark.parametrize(
    ("backend", "image"),
    [
        ("pillow", {}),
        ("pillow", {"dtype": "bfloat16"}),
        ("dali", {"layout": "CHW", "dtype": "float16", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}),
    ],
)
def test_a_sample_shows_its_view_its_further_images_and_its_original(
    pictures: Path, backend: str, image: dict[str, Any]
) -> None:
    with DataroomServer(pictures) as server:
        overview = gather(settings(server, **image), batches=9, samples=2, device="cpu", backend=backend)
    assert overview.masks == ["cut", "lab"]
    assert overview.label_maps == {"lab"}
    assert sum(len(batch.samples) for batch in overview.batches) == 8
    for batch in overview.batches:
        for sample in batch.samples:
            view, half, original = sample.panels
            assert [view.name, half.name, original.name] == ["model", "image_half", "original"]
            assert differs(inside_the_frame(original.picture), half.picture) < 6
            # The mask "cut" covers the left half; "lab", which every second picture has, the right one too.
            left, right = (differs(*halves) for halves in zip(cut_in_two(view), cut_in_two(half), strict=True))
            assert left > 20
            assert (right > 20) == (int(sample.id[-1]) % 2 == 1)


def test_without_masks_the_view_is_the_framed_part_of_the_original(pictures: Path) -> None:
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(pictures), "random_sampling": True},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "batch_size": 3,
        "epochs": 2,
    }
    (pictures / "000a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    overview = gather(config, batches=100, samples=100, device="cpu")
    samples = [sample for batch in overview.batches for sample in batch.samples]
    assert {batch.epoch for batch in overview.batches} == {0, 1}
    assert sum(overview.skipped.values()) == 2
    found = [sample for sample in samples if sample.id.count("_") == 0]
    assert len(found) == 16
    for sample in found:
        view, original = sample.panels
        assert differs(view.picture, inside_the_frame(original.picture)) < 6


def test_all_views_are_shown(tmp_path: Path) -> None:
    add_picture(tmp_path / "x.jpg", 60, 90)
    views = [{}, {"default_image_size": 32, "flip": 1.0}, {"crop": "random"}]
    image = {"crop_and_resize": True, "default_image_size": 64, "dtype": "bfloat16", "layout": "CHW", "views": views}
    config = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}, "image_config": image}
    overview = gather(config, batches=1, samples=9, device="cpu")
    (sample,) = overview.batches[0].samples
    assert [panel.name for panel in sample.panels] == ["model", "view 1, mirrored", "view 2", "original"]
    assert len({panel.picture.getpixel((5, 5)) for panel in sample.panels[:3]}) == 1  # a picture of one colour
    write_page(overview, tmp_path / "x.html")


def test_classes_captions_and_mirrored_views_are_told(tmp_path: Path) -> None:
    for number, name in enumerate(["cat", "dog"]):
        add_picture(tmp_path / name / "x.jpg", 60, 90, color=90 * number)
        (tmp_path / name / "x.txt").write_text(f"a {name}")
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(tmp_path), "labels": "folder", "captions": "txt", "where": "'dog' in txt"},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "flip": 1.0},
    }
    overview = gather(config, batches=1, samples=9, device="cpu")
    (sample,) = overview.batches[0].samples
    assert [panel.name for panel in sample.panels] == ["model, mirrored", "original"]
    assert (sample.label, sample.caption, overview.filtered) == ("class 1 dog", "a dog", 1)
    write_page(overview, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "class 1 dog" in page
    assert "filtered: 1" in page


def test_without_crops_the_original_is_the_view(pictures: Path) -> None:
    with DataroomServer(pictures) as server:
        overview = gather(settings(server, crop_and_resize=False, layout="CHW"), batches=1, samples=2, device="cpu")
    (batch,) = overview.batches
    assert batch.bucket is None
    assert [[panel.name for panel in sample.panels] for sample in batch.samples] == [["model", "image_half"]] * 2


def cut_in_two(panel: Panel) -> list[Image.Image]:
    """Left and right, a little apart."""
    width, height = panel.picture.size
    return [panel.picture.crop((0, 0, width // 2 - 8, height)), panel.picture.crop((width // 2 + 8, 0, width, height))]


def inside_the_frame(picture: Image.Image) -> Image.Image:
    """What the frame surrounds. Fails where there is none."""
    red = (np.abs(np.asarray(picture).astype(int) - CROP_INK) < 3).all(axis=-1)
    rows, columns = np.flatnonzero(red.mean(axis=1) > 0.5), np.flatnonzero(red.mean(axis=0) > 0.5)
    assert len(rows) >= 4
    assert len(columns) >= 4
    return picture.crop((columns[0] + 2, rows[0] + 2, columns[-1] - 1, rows[-1] - 1))


def differs(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of about the same shape, in levels."""
    size = (32, 32)
    levels = [np.asarray(each.resize(size), np.float32) for each in (one, other)]
    return float(np.abs(levels[0] - levels[1]).mean())


@given(
    st.sampled_from(["HWC", "CHW"]),
    st.sampled_from(["float16", "float32"]),
    st.tuples(*[st.floats(-1, 1)] * 3),
    st.tuples(*[st.floats(0.1, 1)] * 3),
)
def test_normalisation_is_undone(layout: Any, dtype: Any, mean: Any, std: Any) -> None:
    image = ImageConfig(layout=layout, dtype=dtype, mean=mean, std=std)
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    form = OutputFormat(image)
    array = form.empty(16, 16)
    form.write(levels, array)
    back = np.asarray(to_picture(array, image)).astype(int)
    assert np.abs(back - levels).max() <= (1 if dtype == "float16" else 0)


@pytest.mark.parametrize(
    ("array", "colour"),
    [
        (np.full((4, 6, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 6, 1), 0x4000, np.uint16), (64, 64, 64)),
        (np.tile(np.array([9, 8, 7, 0], np.uint8), (4, 6, 1)), (128, 128, 128)),
        (np.tile(np.array([9, 255], np.uint8), (4, 6, 1)), (9, 9, 9)),
        (encode(np.full((4, 6, 3), 200, np.uint8)), (200, 200, 200)),
        (encode(Image.new("I;16", (6, 4), 0x4000)), (64, 64, 64)),
    ],
)
def test_images_of_other_kinds_are_displayed(array: Any, colour: tuple[int, int, int]) -> None:
    picture = to_picture(array, ImageConfig())
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert picture.getpixel((3, 2)) == colour


sides = st.integers(1, 400)


@given(sides, sides, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_any_crop_can_be_framed(
    height: int, width: int, top: float, left: float, part_height: float, part_width: float
) -> None:
    picture = fit_area(Image.new("RGB", (width, height), (200, 200, 200)), 900, 60)
    assert max(picture.size) <= 60
    crop = (top * height, left * width, (1 - top) * height * part_height, (1 - left) * width * part_width)
    framed = outline_crops(picture, (0.0, 0.0, float(height), float(width)), [crop, crop])
    assert framed.size == picture.size


def columns(*values: int) -> Any:
    return np.tile(np.array(values, np.uint8).repeat(64 // len(values)), (8, 1))


@pytest.mark.parametrize(
    ("levels", "kind"),
    [
        (columns(0, 255), "cut-out"),
        (columns(0, 1), "cut-out"),
        (
            columns(0, 0, 3, 9, 128, 246, 255, 255, 255, 255, 252, 255, 251, 255, 255, 254),
            "cut-out",
        ),  # JPEG, soft edges
        (np.arange(256, dtype=np.uint8).reshape(16, 16), "cut-out"),
        (columns(0, 1, 2, 5), "labels"),
        (columns(0, 0, 0, 1, 1, 7, 7, 255), "labels"),  # 255 is "ignore"
    ],
)
def test_label_maps_are_told_from_cut_outs(levels: Any, kind: str) -> None:
    assert kind_of_mask([levels[:4], levels[4:]]) == kind


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_masks_of_more_than_8_bits_are_told_and_drawn(dtype: Any) -> None:
    labels = columns(0, 1, 2, 3).astype(dtype) * 300
    assert kind_of_mask([labels, columns(0, 1)]) == "labels"
    assert kind_of_mask([columns(0, 1).astype(dtype) * 65_535]) == "cut-out"
    drawn = np.asarray(overlay_mask(Image.new("RGB", (64, 8), (128, 128, 128)), labels, "labels", colour_of(1)))
    assert (drawn[:, :16] == 128).all()
    assert len({tuple(drawn[4, at]) for at in (24, 40, 56)}) == 3
    shades = np.asarray(overlay_mask(Image.new("RGB", (64, 8), (128, 128, 128)), labels, "cut-out", colour_of(1)))
    assert (shades[:, :10] == 128).all()
    assert (shades[:, 30:] != 128).any(axis=-1).all()


def test_encoded_masks_keep_their_numbers() -> None:
    levels = columns(0, 1, 2, 3).astype(np.uint16) * 300
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    assert np.array_equal(mask_levels(file.getvalue(), ImageConfig()), levels)


def test_a_mask_colours_what_it_covers_and_nothing_else() -> None:
    gray = Image.new("RGB", (64, 8), (128, 128, 128))
    covered = np.asarray(overlay_mask(gray, columns(0, 0, 255, 255), "cut-out", colour_of(0)))
    assert (covered[:, :28] == 128).all()
    assert (covered[:, 40:60] != 128).any(axis=-1).all()
    labelled = np.asarray(overlay_mask(gray, columns(0, 1, 2, 3), "labels", colour_of(1)))
    assert (labelled[:, :16] == 128).all()
    assert len({tuple(labelled[4, at]) for at in (24, 40, 56)}) == 3


@given(st.text(), st.integers(1, 30))
def test_any_text_can_be_printed(text: str, length: int) -> None:
    line = single_line(text)
    line.encode()
    assert "\n" not in line
    assert len(shorten_middle(line, length)) <= length
    assert len(shorten(line, length)) <= length


@pytest.mark.parametrize(
    ("attributes", "caption"),
    [
        ({"width": 3, "Caption": " a \n cat "}, "a cat"),
        ({"text": "a dog", "caption": ""}, "a dog"),
        ({"blip_caption_en": "a hen"}, "a hen"),
        ({"captions": ["first", "second"]}, "first"),
        ({"caption": {"de": "x"}, "license": "CC0"}, ""),
        ({}, ""),
    ],
)
def test_the_caption_is_found_under_any_of_its_names(attributes: dict[str, Any], caption: str) -> None:
    assert caption_of(attributes) == caption


class Page(HTMLParser):
    """Gathers the tags, the addresses and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


command = partial(run_command, "preview")


def test_the_command_writes_a_picture_and_a_page(pictures: Path, tmp_path: Path) -> None:
    config, png, html = tmp_path / "config.json", tmp_path / "out.png", tmp_path / "out.html"
    with DataroomServer(pictures) as server:
        chosen = settings(server)
        del chosen["source_config"]["api_key"]
        config.write_text(json.dumps(chosen))
        for out in (png, html):
            result = command(str(config), "--out", str(out), "--batches", "9", DATAROOM_API_KEY=server.key)
            assert result.returncode == 0, result.stderr
            assert "8 samples" in result.stdout
            assert server.key.encode() not in out.read_bytes()
    with Image.open(png) as sheet:
        assert sheet.width > 1000
        assert sheet.height > 1000
    page = Page(html.read_text())
    assert "script" not in page.tags
    assert len(page.addresses) == 24
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert '<script>alert("1")</script> & "quoted"' in page.words
    assert "<b>tag</b>" in page.words
    assert f"{'long-' * 30}3" in page.words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--root-path", ".", "--out", "x.pdf"], "x.pdf"),
        (["--root-path", ".", "--out", "no/such/folder/x.png"], "no/such/folder"),
        (["--root-path", "/no/such/folder"], "/no/such/folder"),
        (["--no-require-images", "--api-url", "http://127.0.0.1:1/api/"], "require_images"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_2(arguments: list[str], words: str) -> None:
    result = command(*arguments)
    assert result.returncode == 2
    assert words in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_no_batch_is_an_error(pictures: Path) -> None:
    config = {"source_type": "file", "source_config": {"root_path": str(pictures)}, "batch_size": 99, "drop_last": True}
    with pytest.raises(DatagoError, match="no batch was delivered"):
        gather(config, batches=1, samples=1, device="cpu")


def odd_overview(count: int) -> Overview:
    """Pictures of all shapes, and names and words of all lengths."""
    shapes = [(420, 4), (4, 420), (200, 200)]
    samples = [
        ShownSample("x" * (number * 40), (1, 1), "word " * number * 9, ["t" * 300] * (number % 2),
              [Panel("p" * 90, Image.new("RGB", shape)) for shape in shapes[: 1 + number % 3]] * (1 + number % 4))
        for number in range(count)
    ]  # fmt: skip
    return Overview("o" * 999, "pillow", True, [ShownBatch((64, 64), 3, 99, samples)], ["m" * 200] * 9)


def test_odd_shapes_and_long_words_are_laid_out(tmp_path: Path) -> None:
    write_sheet(odd_overview(12), tmp_path / "odd.png")
    write_page(odd_overview(12), tmp_path / "odd.html")
    assert Page((tmp_path / "odd.html").read_text()).words.count("x" * 440) == 1


def test_a_sheet_too_tall_is_refused(tmp_path: Path) -> None:
    small = ShownSample("x", (1, 1), "", [], [Panel("model", Image.new("RGB", (200, 200)))])
    with pytest.raises(ConfigError, match="html"):
        write_sheet(Overview("", "", batches=[ShownBatch(None, 0, 1, [small] * 2000)]), tmp_path / "tall.png")


@pytest.mark.parametrize(
    ("source", "title"),
    [
        (
            {"source_type": "file", "source_config": {"root_path": "photos", "random_sampling": True}},
            "photos, shuffled",
        ),
        ({"source_type": "file", "source_config": {"root_path": "/a b", "rank": 0, "world_size": 2}}, "/a b"),
        (
            {"source_config": {"api_url": "http://x/api/", "api_key": "a" * 40, "tags": "cat"}},
            "http://x/api/, tags cat",
        ),
        ({"source_config": {"sources": "COYO"}}, "a Dataroom, sources COYO"),
        (
            {
                "source_type": "webdataset",
                "source_config": {"url": "http://u:secret@x/a.tar?q=1", "auth_token": "token"},
            },
            "http://x/a.tar",
        ),
    ],
)
def test_the_title_says_where_samples_come_from_without_secrets(source: dict[str, Any], title: str) -> None:
    assert title_of(LoaderConfig.load(source)) == title


def test_in_lockstep_each_row_is_shown_once_with_its_original(pictures: Path, tmp_path: Path) -> None:
    names = [f"{number:03}.png" for number in range(8)]
    rows = []
    for name in names:
        with Image.open(pictures / name) as picture:
            rows.append(f"{name},{picture.width},{picture.height}")
    (pictures / "rows.csv").write_text("\n".join(["path,width,height", *rows]))
    config = {
        "source_type": "table",
        "source_config": {"path": str(pictures / "rows.csv"), "random_sampling": True},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "batch_size": 3,
        "lockstep": True,
    }
    found = gather(config, batches=9, samples=9, device="cpu", backend="pillow")
    samples = [sample for batch in found.batches for sample in batch.samples]
    assert sorted(sample.id for sample in samples) == names
    assert all(sample.panels[-1].name == "original" for sample in samples)
    assert [batch.fills for batch in found.batches] == [3 - len(batch.samples) for batch in found.batches]
    assert any(batch.fills for batch in found.batches)
    found.batches.append(ShownBatch((64, 64), 0, 3, [], fills=3))
    write_sheet(found, tmp_path / "sheet.png")
    write_page(found, tmp_path / "page.html")
    assert "0 samples, 3 more only fill places" in (tmp_path / "page.html").read_text()


def test_a_mix_is_shown_with_the_sources_of_its_samples_and_whole_originals(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        for number in range(3):
            add_picture(tmp_path / name / f"{number}.png", 40, 80)
    sources = [
        {"name": name, "source_type": "file", "source_config": {"root_path": str(tmp_path / name)}}
        for name in ("cats", "dogs")
    ]
    sources[0]["image_config"] = {"crop": "random_resized", "crop_scale": [0.1, 0.1]}
    image = {"crop_and_resize": True, "default_image_size": 64}
    config = {"source_type": "mix", "source_config": {"sources": sources}, "image_config": image, "batch_size": 4}
    overview = gather(config, batches=2, samples=4, device="cpu")
    assert overview.title == "a mix of cats 1, dogs 1 (weights)"
    shown = [sample for batch in overview.batches for sample in batch.samples]
    assert [sample.id for sample in shown] == [f"{name}: {at}.png" for at in range(3) for name in ("cats", "dogs")]
    for sample in shown:
        assert sample.panels[-1].name == "original"
        width, height = sample.panels[-1].picture.size
        assert width == pytest.approx(2 * height, rel=0.05)
