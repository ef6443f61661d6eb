"""Addresses of Hugging Face datasets: hf://datasets/OWNER/NAME[@REVISION]/PATH, and the token for them."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from msgspec import Struct

from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.http.origins import origin_of

__all__ = ["HUB_SCHEME", "HubPath", "hub_origin", "hub_token"]

HUB_SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/([^/@]+)/([^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?")
_PARQUET = "~parquet"


class HubPath(Struct, frozen=True):
    """Names a file or folder of a dataset."""

    owner: str
    name: str
    revision: str
    path: str

    @classmethod
    def parse(cls, address: str) -> HubPath:
        """Returns what an address names. Raises SourceError."""
        match = _ADDRESS.fullmatch(address)
        if not match:
            raise SourceError(f"{address!r} is not an address of a dataset: use hf://datasets/OWNER/NAME/PATH")
        revision = match[3] or "main"
        return cls(match[1], match[2], "refs/convert/parquet" if revision == _PARQUET else revision, match[4] or "")

    @property
    def url(self) -> str:
        """Returns the https address of the file."""
        return f"{_hub()}/datasets/{self.owner}/{self.name}/resolve/{self._revision}/{quote(self.path)}"

    @property
    def tree_url(self) -> str:
        """Returns the https address that lists the files below the folder, as JSON."""
        folder = f"/{quote(self.path.rstrip('/'))}" if self.path else ""
        return f"{_hub()}/api/datasets/{self.owner}/{self.name}/tree/{self._revision}{folder}?recursive=true"

    @property
    def _revision(self) -> str:
        return quote(self.revision, safe="")


def hub_token() -> str:
    """Returns the user's token: HF_TOKEN, else the file that `hf auth login` writes; "" if there is none."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if token:
        return token
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    try:
        with open(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def hub_origin() -> str:
    """Returns scheme, host and port of the server that hf:// addresses mean. Raises ConfigError."""
    try:
        return origin_of(_hub())
    except ValueError as problem:
        words = str(problem)
    raise ConfigError(f"the environment variable HF_ENDPOINT is no address of a server: the address {words}")


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
