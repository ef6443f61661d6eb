"""Shows what a model will see: the first batches of a loader, drawn with their crops, masks and names.

`gather.py` loads the batches, `pictures.py` and `masks.py` draw images, `sheet.py` and `page.py` lay them out.
`bucket_counts.py` counts which pictures go to which bucket, and `bucket_sheet.py` draws that.
"""

from __future__ import annotations

from datago_gpu.preview.bucket_counts import BucketCounts, count_buckets
from datago_gpu.preview.bucket_sheet import write_bucket_sheet
from datago_gpu.preview.gather import Overview, gather, title_of
from datago_gpu.preview.page import write_page
from datago_gpu.preview.sheet import write_sheet

__all__ = [
    "BucketCounts",
    "Overview",
    "count_buckets",
    "gather",
    "title_of",
    "write_bucket_sheet",
    "write_page",
    "write_sheet",
]
