"""The flags that stand for settings: words mean what the setting's type says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.cli import settings_help
from datago_gpu.cli.bench import bench
from datago_gpu.cli.flags import NOT_FLAGS, SECTIONS, Setting, load_config, setting_flags
from datago_gpu.cli.preview import preview
from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError

FLAGS = [flag for flag in setting_flags() if isinstance(flag, Setting)]


def takes_any_text(flag: Setting) -> bool:
    section, name = flag.path
    types = {field.type for _, place, kind in SECTIONS for field in msgspec.structs.fields(kind)
             if (place, field.name) == (section, name)}  # fmt: skip
    try:
        return all(msgspec.convert("no word of any setting", wanted) for wanted in types)
    except msgspec.ValidationError:
        return False


OF_TEXT = [flag for flag in FLAGS if takes_any_text(flag)]
OTHERS = [flag for flag in FLAGS if not takes_any_text(flag)]
VALUES: dict[str, tuple[str, Any]] = {
    "source_type": ("file", "file"),
    "embedding_empty": ("false", "false"),
    "duplicate_state": ("unprocessed", "unprocessed"),
    "random_method": ("server", "server"),
    "layout": ("CHW", "CHW"),
    "dtype": ("float16", "float16"),
    "mask_interpolation": ("lanczos", "lanczos"),
    "encode_format": ("jpeg", "jpeg"),
    "mean": ("0.5,0.25,0", [0.5, 0.25, 0]),
    "std": ("[0.5, 0.5, 0.5]", [0.5, 0.5, 0.5]),
    "max_failures": ("0.25", 0.25),
    "crop": ("random", "random"),
    "crop_scale": ("0.25,1", [0.25, 1]),
    "crop_aspect": ("[0.5, 2]", [0.5, 2]),
    "resolutions": ("512,768", [512, 768]),
    "buckets": ("[[512, 512], [448, 576]]", [[512, 512], [448, 576]]),
}


def test_the_settings_of_text_are_those() -> None:
    names = {flag.path[1] for flag in OF_TEXT}
    assert {"root_path", "url", "tags_empty", "skipped_file", "masks", "has_masks", "api_url"} <= names
    assert not {"embedding_empty", "duplicate_state", "layout", "batch_size", "max_failures"} & names


def config_of(*words: str) -> dict[str, Any]:
    made: list[dict[str, Any]] = []

    @click.command(params=setting_flags())
    @click.pass_context
    def command(ctx: click.Context, /, **_: Any) -> None:
        made.append(load_config(ctx, None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATAROOM_API_URL", "http://x/api/")  # without, flags have to say what to load
        command.main(list(words), standalone_mode=False)
    return made[0]


def value_of(flag: Setting, *words: str) -> Any:
    section, name = flag.path
    config = config_of(flag.opts[0], *words)
    return (config[section] if section else config)[name]


@pytest.mark.parametrize("flag", OF_TEXT, ids=lambda flag: flag.name)
@pytest.mark.parametrize("text", ["2024", "true", "null", "[1]", "1e3", '"x"', "~", "-1"])
def test_a_flag_of_a_text_takes_any_words_as_they_are(flag: Setting, text: str) -> None:
    assert value_of(flag, text) == text


@given(st.sampled_from(OF_TEXT), st.text())
def test_no_text_is_read_as_anything_else(flag: Setting, text: str) -> None:
    assert flag.value(text) == text


@pytest.mark.parametrize("flag", OTHERS, ids=lambda flag: flag.name)
def test_every_other_flag_gives_a_value_of_its_setting_s_type(flag: Setting) -> None:
    name = flag.path[1]
    if flag.is_bool_flag:
        assert value_of(flag) is True
        return
    words, value = VALUES.get(name, ("7", 7))
    assert value_of(flag, words) == value
    if name not in VALUES:
        assert flag.value("7.5") == 7.5


@pytest.mark.parametrize(
    ("words", "section", "expected"),
    [
        (["--root-path", "2024"], "source_config", {"root_path": "2024"}),
        (["--tags-empty", "true"], "source_config", {"tags_empty": "true"}),
        (["--embedding-empty", "true"], "source_config", {"embedding_empty": "true"}),
        (["--duplicate-state", "1"], "source_config", {"duplicate_state": 1}),
        (["--no-draft"], "decode_config", {"draft": False}),
    ],
)
def test_words_that_look_like_json(words: list[str], section: str, expected: dict[str, Any]) -> None:
    assert config_of(*words)[section] == expected


@pytest.mark.parametrize("words", ["null", "none", "None"])
@pytest.mark.parametrize("flag", ["--epochs", "--limit", "--max-failures", "--threads"])
def test_none_can_be_given_where_a_setting_takes_it(flag: str, words: str) -> None:
    (found,) = (each for each in FLAGS if flag in each.opts)
    assert found.value(words) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "many"], "batch_size must be a whole number from 1 to 4096, got 'many'"),
        (["--batch-size", "null"], "batch_size must be a whole number from 1 to 4096, got None"),
        (["--layout", "1"], "image_config.layout must be 'HWC' or 'CHW', got 1"),
        (["--mean", "0.5"], "image_config.mean must be a list of 3 numbers or None, got [0.5]"),
        (["--limit", "[" * 100_000], "limit must be a whole number of at least 1 or None, got '[["),
    ],
)
def test_words_that_mean_nothing_are_a_config_error(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        LoaderConfig.load(config_of("--root-path", str(tmp_path), *words))
    assert str(caught.value).startswith(message)


def help_of(command: click.Command) -> dict[str, list[str]]:
    """Title of a section of the help -> its lines."""
    found: dict[str, list[str]] = {}
    text = command.get_help(click.Context(command, info_name="x", terminal_width=112))
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            lines = found.setdefault(line.removesuffix(":"), [])
        elif found:
            lines.append(line.strip())
    return found


@pytest.mark.parametrize("command", [bench, preview], ids=lambda command: command.name)
def test_help_tells_each_setting_in_the_section_of_its_record(command: click.Command) -> None:
    told = help_of(command)
    assert list(told) == ["Options", *(title for title, *_ in SECTIONS)]
    for title, _, kind in SECTIONS:
        text = " ".join(told[title])
        assert "VALUE" not in text
        assert ">>>" not in text
        for field in msgspec.structs.fields(kind):
            if field.name not in NOT_FLAGS:
                assert f"-{field.name.replace('_', '-')} " in text, field.name
    assert "--batch-size INTEGER" in " ".join(told["Loader"])
    assert any("[default: 32]" in line for line in told["Loader"])
    images = " ".join(told["Images (image_config)"])
    assert "--dtype uint8|float16|bfloat16|float32" in images
    assert "[default: 0.5]" in images
    shards = " ".join(told["WebDataset shards (source_config of source_type webdataset)"])
    assert "Number of shards that are downloaded at the same time" in shards
    assert "[default: 1000]" in shards
    room = told["A Dataroom (source_config of source_type db)"]
    assert (
        "--has-masks NAME,NAME           Only images with all of these masks. The masks are loaded: `Batch.masks`."
        in room
    )
    assert "--lacks-masks NAME,NAME         Only images with none of these masks." in room


@pytest.mark.parametrize("kind", [kind for *_, kind in SECTIONS], ids=lambda kind: kind.__name__)
def test_each_setting_has_a_text_of_its_own(kind: type[msgspec.Struct]) -> None:
    texts = settings_help.setting_texts(kind)
    assert list(texts) == [name for name in texts if name in kind.__struct_fields__]
    assert sorted(texts) == sorted(kind.__struct_fields__)
    assert len(set(texts.values())) == len(texts)
