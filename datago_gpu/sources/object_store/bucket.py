"""Lists the images below a prefix in object storage, one page at a time, in the store's order: by key."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.config.file_names import hidden_part, is_hidden
from datago_gpu.errors import SourceError
from datago_gpu.redact import without_query
from datago_gpu.sources.barren import Barren
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.listed_images import Beside, Page
from datago_gpu.sources.object_store.s3_listing import ODD_KEY
from datago_gpu.sources.object_store.stores import MOST_STORED_PAGES, Stores
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo

__all__ = ["Bucket"]


class Bucket:
    """A `Lister` for a root such as s3://bucket/photos.

    A name, and a sample's id, is the key below the root. Names are UTF-8, whatever the locale.
    """

    resumes = True

    def __init__(self, config: LoaderConfig) -> None:
        source = config.source_config
        assert isinstance(source, FileSource)
        self._source, self._selection = source, source.selection
        self._address = source.root_path.rstrip("/")
        scheme, _, rest = self._address.partition("://")
        bucket, _, prefix = rest.partition("/")
        self._bucket = f"{scheme}://{bucket}/"
        # The store lists "s3://bucket//photos" as "photos/": its keys then do not begin with the prefix.
        self.root = f"{prefix}/" if prefix and not prefix.startswith("/") else ""
        self.shown = without_query(self._address)
        self._stores = Stores(config.http_config, source.storage_options)

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:
        """See `Lister.pages`. Raises SourceError if the prefix cannot be listed."""
        key = self.root + after.decode() if after else ""
        try:
            barren = Barren(self.shown, MOST_STORED_PAGES)
            async with aclosing(self._stores.list_objects(self._address, key)) as pages:
                async for page in pages:
                    kinds = [self._kind(each.key, passed) for each in page]
                    besides = [
                        Beside(self._name(each.key), each.tag)
                        for each, kind in zip(page, kinds, strict=True)
                        if kind == "beside"
                    ]
                    taken = [each for each, kind in zip(page, kinds, strict=True) if kind == "image"]
                    yield Page(
                        [self._name(each.key) for each in taken], tags=[each.tag for each in taken], besides=besides
                    )
                    barren.note(len(page), usable=bool(taken))
        except HttpFailure as failure:
            raise self._unlisted(failure) from None

    async def folders(self) -> list[bytes]:
        """See `Lister.folders`."""
        try:
            keys = await self._stores.list_folders(self._address)
        except HttpFailure as failure:
            raise self._unlisted(failure) from None
        names = [key.rstrip("/").removeprefix(self.root) for key in keys]
        return [name.encode() for name in names if self._selection.hidden or not is_hidden(name)]

    async def classes(self) -> list[str] | None:
        """See `Lister.classes`."""
        return None

    async def read(self, name: bytes, most: int) -> bytes:
        """See `Lister.read`."""
        try:
            return await self._stores.get(self._url(name.decode()), most)
        except HttpFailure as failure:
            raise SourceError(self._source.redacted(f"cannot read {failure}")) from None

    def _unlisted(self, failure: HttpFailure) -> SourceError:
        hint = "" if failure.reason == ODD_KEY else "; check source_config.root_path and the credentials"
        return SourceError(self._source.redacted(f"cannot list {failure}{hint}"))

    def _url(self, key: str) -> str:
        return f"{self._bucket}{self.root}{key}"

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> SampleRef:  # noqa: ARG002 - there is none
        """See `Lister.ref`."""
        key = name.decode()
        return SampleRef(index, SampleInfo(key, source="filesystem"), url=self._url(key))

    def _name(self, key: str) -> bytes:
        return key.removeprefix(self.root).encode()

    def _kind(self, key: str, passed: PassedOver) -> Literal["image", "beside", ""]:
        """Returns what lies under a key; "beside" for what says something about images. Counts keys that are neither,
        except folder markers."""
        is_image = self._selection.takes(key)
        if not is_image and not self._selection.is_beside(key):
            if not key.endswith("/"):
                passed.add("extension", key)
            return ""
        if self._is_hidden(key):
            passed.add("hidden" if is_image else "extension", key)
            return ""
        return "image" if is_image else "beside"

    def _is_hidden(self, key: str) -> bool:
        return not self._selection.hidden and bool(hidden_part(key.removeprefix(self.root).split("/")))
