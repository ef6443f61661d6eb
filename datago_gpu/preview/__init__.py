"""Shows what a model will see: the first batches of a loader, drawn with their crops, masks and names.

`gather.py` loads the batches, `pixels.py` and `masks.py` draw images, `sheet.py` and `page.py` lay them out.
"""

from __future__ import annotations

from datago_gpu.preview.gather import Overview, gather
from datago_gpu.preview.page import write_page
from datago_gpu.preview.sheet import write_sheet

__all__ = ["Overview", "gather", "write_page", "write_sheet"]
