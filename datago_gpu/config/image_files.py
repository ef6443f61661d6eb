"""Settings of source_type "file": which folder of images, or prefix in object storage, is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from datago_gpu.config.file_names import EXTENSIONS, Captions, Selection
from datago_gpu.config.local_paths import FILE_SCHEME
from datago_gpu.config.settings import Count, Names, Natural, RankSplit, names_in
from datago_gpu.config.source_settings import SourceSettings, hidden
from datago_gpu.config.storage import STORE_SCHEMES, endpoint_problem

__all__ = ["FileSource"]

_EXTENSION = re.compile(r"\.?[^./\s*?][^/\s*?]*")


class FileSource(SourceSettings, frozen=True, kw_only=True):
    """A folder of images, walked with its subfolders in the order of their names.

    Attributes:
        root_path: a local folder, or a prefix in object storage such as `s3://bucket/photos`. Local paths may contain
            `~`, `$NAME` and `${NAME}`, as in a shell, or be a `file://` address. A local folder is listed with its
            subfolders in the order of their names, object storage in the order of the store.
        random_sampling: true shuffles: each epoch is a full permutation that depends only on `seed` and the epoch. The
            whole listing is read first, which takes seconds for a million files.
        storage_options: options of obstore for s3, gs and az, such as `{"endpoint": "http://localhost:9000"}`. Other
            options are read from the environment.
        extensions: file name extensions of images, comma-separated or a list, such as `"jpg,png"`; upper and lower case
            are equal. "" means the extensions of all supported formats. Files with other extensions, or with none, are
            ignored.
        hidden: true includes hidden files and folders: names that begin with a dot (`.ipynb_checkpoints`, `.Trash`,
            `._x.jpg`), and `__MACOSX`, `@eaDir`, `#recycle` and `$RECYCLE.BIN`. `root_path` itself may be hidden in any
            case.
        follow_links: true follows symbolic links to images and folders; each real folder is listed only once, so
            circular links end. False ignores links. `root_path` itself may be a link in any case.
        where: which samples are loaded, as an expression over what is known of a sample before its image is read: `id`
            and the sample's attributes. `stats().filtered` counts the samples left out. "": all samples.
        min_short_edge: minimum length of the shorter side, in pixels. Smaller images are skipped: `too-small` in
            `stats().skipped`. 0: no minimum.
        labels: "folder": the folders in `root_path` are classes, and the samples' labels are their numbers:
            `Batch.labels`, `loader.classes`. As in torchvision's ImageFolder, classes are sorted by name, images may
            lie deeper in their folders, and images that lie in no class folder are left out. "": no labels.
        classes: names of the class folders in the order of their labels, as a list, or as text with one name on each
            line. Images in other folders are left out. "": all folders, sorted by name.
        captions: where the attributes of images are. "txt": in NAME.txt beside NAME.jpg, as the attribute `txt`.
            "json": in NAME.json, a JSON object. "metadata": in metadata.jsonl or metadata.csv, as in Hugging Face's
            ImageFolder: in the row whose `file_name` is the path of the image, from the folder of that file. In object
            storage, "metadata" reads the whole listing first. Images without a caption are delivered, and counted as
            `no-caption`. "": other files are ignored.
        rank: the share of the samples that this process loads: those with the numbers rank, rank + world_size, ... in
            the order that all ranks share. Default: found when the Loader is made, in torch.distributed,
            jax.distributed, or what torchrun, Open MPI, MPICH or Slurm have set; else 0.
        world_size: number of processes that share the samples. Default: found as `rank`, else 1.
        rank_split: what the ranks share in a shuffle. "shuffled": the shuffled order of each epoch, so a rank gets
            different samples in each epoch; all ranks need the same `seed`. "listed": the listing, so a rank shuffles
            the same samples in each epoch; ranks may have different seeds.
    """

    root_path: str
    random_sampling: bool = False
    storage_options: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    rank: Natural | None = None
    world_size: Count | None = None
    rank_split: RankSplit = "shuffled"
    follow_links: bool = True
    extensions: Names = ""
    hidden: bool = False
    labels: Literal["", "folder"] = ""
    captions: Captions = ""

    def _problem(self) -> str | None:
        odd = [name for name in names_in(self.extensions) if not _EXTENSION.fullmatch(name)]
        if odd:
            return f"source_config.extensions: {odd[0]!r} is not a file name extension, such as 'jpg' or '.png'"
        if not self.root_path:
            return "source_config.root_path is empty: set it to a folder of images"
        scheme, slashes, _ = self.root_path.partition("://")
        if slashes and f"{scheme.lower()}://" not in (FILE_SCHEME, *STORE_SCHEMES):
            return (f"source_config.root_path begins with {scheme}://, which is not supported: "
                    f"use a local folder, or {', '.join(STORE_SCHEMES)}")  # fmt: skip
        if self.captions in ("txt", "json") and self.selection.takes(f"x.{self.captions}"):
            return f"source_config.extensions and captions both name {self.captions!r}: set one of them to another"
        if self.classes and not self.labels:
            return "source_config.classes names folders, but labels is empty: set labels to 'folder'"
        return endpoint_problem(self.storage_options)

    @property
    def has_labels(self) -> bool:
        """Whether the settings ask for labels."""
        return bool(self.labels)

    @property
    def is_stored(self) -> bool:
        """Whether the root is in object storage."""
        return self.root_path.startswith(STORE_SCHEMES)

    @property
    def selection(self) -> Selection:
        """Which files below the root are its images."""
        given = tuple(f".{name.lower().removeprefix('.')}" for name in names_in(self.extensions))
        return Selection(given or EXTENSIONS, self.hidden, self.follow_links, self.captions)

    def _secrets(self) -> Iterable[str]:
        return self.storage_options.values()

    def _shown(self) -> dict[str, Any]:
        return {"storage_options": hidden(self.storage_options)}
