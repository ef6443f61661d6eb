"""Opens the lister of source_type "file": of a local folder or a bucket, with labels and captions if wanted."""

from __future__ import annotations

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.sources.listed_images import Lister

__all__ = ["open_lister"]


def open_lister(config: LoaderConfig) -> Lister:
    """Returns the lister that the settings ask for. The lister does nothing until one of its methods is called."""
    source = config.source_config
    assert isinstance(source, FileSource)
    lister: Lister
    if source.is_stored:
        from datago_gpu.sources.object_store.bucket import Bucket

        lister = Bucket(config)
    else:
        from datago_gpu.sources.folders import Folder

        lister = Folder(config)
    if source.captions == "metadata":
        from datago_gpu.sources.described import Described

        lister = Described(lister)
    elif source.captions:
        from datago_gpu.sources.captions import Captioned

        lister = Captioned(lister)
    if source.labels:
        from datago_gpu.sources.class_folders import Labelled

        lister = Labelled(lister, source.class_names)
    return lister
