"""Writes the preview as one self-contained HTML page: without scripts and external resources."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from PIL import Image

from datago_gpu.preview.gather import Overview, Panel, ShownBatch, ShownSample
from datago_gpu.preview.masks import colour_of
from datago_gpu.preview.notes import SIZES_NOTE, crop_note, heading, mask_note, size_note, skipped_note
from datago_gpu.preview.text import shorten

__all__ = ["write_page"]

_LONGEST_CAPTION = 240

_STYLE = """
:root { color-scheme: light dark; --paper: #f4f3f0; --card: #fff; --ink: #1c1c1e; --faint: #6c6c70; --rule: #d6d4cf }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161618; --card: #222225; --ink: #ececee; --faint: #9c9ca3; --rule: #38383c } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 110rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 14px/1.4 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .8rem; padding-top: .8rem;
  border-top: 1px solid var(--rule) } h2 small, .faint { color: var(--faint); font-weight: normal }
p { margin: .3rem 0; overflow-wrap: anywhere }
.legend span { margin-right: 1.2rem; white-space: nowrap } .legend i { display: inline-block; width: .8em;
  height: .8em; margin-right: .4em; border-radius: 2px }
.cards { display: flex; flex-wrap: wrap; gap: 1rem }
article { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .7rem; max-width: 100% }
.panels { display: flex; flex-wrap: wrap; gap: .4rem; align-items: flex-start }
figure { margin: 0 } figcaption { color: var(--faint); font-size: .78rem; width: 0; min-width: 100%;
  overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
img { display: block; max-width: 100%; height: auto }
.words { width: 0; min-width: max(100%, 14rem); margin-top: .4rem } .id { font-weight: 600 }
.tag { display: inline-block; background: var(--paper); border-radius: 1em; padding: 0 .6em; margin: .1rem .2rem 0 0;
  font-size: .85em; overflow-wrap: anywhere }
"""


def write_page(overview: Overview, path: Path) -> None:
    """Writes the HTML file. Raises OSError if it cannot be written."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_page(overview))


def _page(overview: Overview) -> Iterator[str]:
    line = f"{overview.title} · {overview.backend} · {SIZES_NOTE}{skipped_note(overview)}"
    yield f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>datago-gpu preview</title><style>{_STYLE}</style></head><body>
<h1>datago-gpu preview</h1>
<p class="faint">{escape(line)}</p>
<p class="legend"><span><i style="border: 2px solid #ff4040"></i>{escape(crop_note(overview))}</span>"""
    for number, name in enumerate(overview.masks):
        yield f'<span><i style="background: rgb{colour_of(number)}"></i>{escape(mask_note(overview, name))}</span>'
    yield "</p>\n"
    for batch in overview.batches:
        yield from _section(batch)
    yield "</body></html>\n"


def _section(batch: ShownBatch) -> Iterator[str]:
    name, note = heading(batch)
    yield f'<section><h2>{escape(name)} <small>{escape(note)}</small></h2><div class="cards">\n'
    for sample in batch.samples:
        yield _card(sample)
    yield "</div></section>\n"


def _card(sample: ShownSample) -> str:
    panels = "".join(map(_figure, sample.panels))
    caption = shorten(sample.caption, _LONGEST_CAPTION)
    tags = "".join(f'<span class="tag">{escape(tag)}</span>' for tag in sample.tags)
    return (
        f'<article><div class="panels">{panels}</div><div class="words">'
        f'<p class="id" dir="auto">{escape(sample.id)}</p><p class="faint">{escape(size_note(sample))}</p>'
        + (f'<p dir="auto" title="{escape(sample.caption)}">{escape(caption)}</p>' if caption else "")
        + (f"<p>{tags}</p>" if tags else "")
        + "</div></article>\n"
    )


def _figure(panel: Panel) -> str:
    name, picture = escape(panel.name), panel.picture
    return (
        f'<figure><figcaption title="{name}">{name}</figcaption><img alt="{name}" width="{picture.width}" '
        f'height="{picture.height}" src="data:image/jpeg;base64,{_jpeg(picture)}"></figure>'
    )


def _jpeg(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return base64.b64encode(file.getvalue()).decode("ascii")
