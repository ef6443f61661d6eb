"""A gallery whose every image is known, a server over it, and a client that shows exactly what came back."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from PIL import Image

from datago_gpu.server import DataroomServer

KEY = "0123456789abcdef0123456789abcdef01234567"
LONG = "long " * 60


def add_image(path: Path, size: tuple[int, int] = (40, 30), sidecar: Any = None, color: int = 0) -> Path:
    """Writes an image, and its sidecar when there is one. The color makes the bytes, and so the hash, its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color % 256, color // 256 % 256, 90)).save(path)
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


GALLERY: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "a/apple.jpg": (
        (400, 300),
        {
            "attributes": {
                "caption": "A red apple, on a table",
                "views": 3,
                "score": 0.5,
                "ok": True,
                "day": "2024-01-05",
            },
            "tags": ["fruit", "red"],
            "duplicate_state": 1,
            "datasets": ["food/1"],
            "coca_embedding": [0.6, 0.8],
            "latents": [
                {"latent_type": "vae", "file": "../latents/apple.npy"},
                {"latent_type": "mask_fg", "file": "apple_mask.png", "is_mask": True},
            ],
        },
    ),
    "a/Banana.png": (
        (300, 400),
        {
            "attributes": {"caption": "a yellow banana", "views": 10, "score": 2, "ok": False, "day": "2024-02-03"},
            "tags": ["fruit"],
            "duplicate_state": 2,
            "datasets": ["food/1", "food/2"],
            "latents": [{"latent_type": "vae", "file": "../latents/banana.npy"}],
        },
    ),
    "b/cherry.webp": (
        (64, 64),
        {"attributes": {"caption": LONG, "words": ["sweet cherry", "Red"], "note": "", "views": None}, "tags": ["red"]},
    ),
    "b/deep/date.gif": ((100, 50), {"source": "palm", "attributes": {"extra": {"x": 1}, "a__b": "x"}}),
    "elder.bmp": ((30, 20), {}),
}
IDS = ["Banana", "apple", "cherry", "date", "elder"]


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    for number, (name, (size, sidecar)) in enumerate(GALLERY.items()):
        add_image(root / name, size, sidecar or None, color=number)
    add_image(root / "a/apple_mask.png", (400, 300))
    (root / "latents").mkdir()
    (root / "latents/apple.npy").write_bytes(b"apple latent")
    (root / "latents/banana.npy").write_bytes(b"banana latent")
    return root


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
    """Sends the path and query exactly as they are in `url`; follows nothing."""
    parts = urlsplit(url)
    target = url[url.index(parts.netloc) + len(parts.netloc) :]
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, target, headers=headers or {})
        reply = connection.getresponse()
        return Reply(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


@dataclass
class Client:
    server: DataroomServer

    def __call__(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET", **parameters: Any
    ) -> Reply:
        url = self.server.url + path + (f"?{urlencode(parameters)}" if parameters else "")
        return request(url, method=method, headers={"Authorization": f"Token {self.server.key}", **(headers or {})})

    def ids(self, path: str = "images/", **parameters: Any) -> list[str]:
        reply = self(path, **{"fields": "id", **parameters})
        assert reply.status == 200, reply.body
        return [image["id"] for image in reply.json["results"]]


@pytest.fixture(scope="session")
def client(gallery: Path) -> Iterator[Client]:
    with DataroomServer(gallery, key=KEY, watch_interval_s=None) as server:
        yield Client(server)
