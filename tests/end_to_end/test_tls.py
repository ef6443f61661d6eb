"""The whole loader over https: certificates are checked, and faults cost no more than without TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from datago_gpu import Loader, SourceError
from tests.end_to_end.test_bad_network import BODY, COUNT, HASTY, Store, config, mischief
from tests.support.listing import Listing, names
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes

ServerOf = Callable[..., MisbehavingServer]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that feeders trust."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


@pytest.fixture
def server_of() -> Iterator[ServerOf]:
    """`server_of(authority, name="127.0.0.1")`: a server whose certificate is by that authority, for that name."""
    running: list[MisbehavingServer] = []

    def start(authority: trustme.CA, name: str = "127.0.0.1") -> MisbehavingServer:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        running.append(MisbehavingServer(tls=context).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


def dataroom(server: MisbehavingServer, payloads: MisbehavingServer) -> tuple[Listing, Store]:
    listing, store = Listing(server, names(COUNT)), Store(payloads, names(COUNT))
    for name, entry in listing.entries.items():
        entry["image_direct_url"] = store.url(name)
    return listing, store


def loaded(settings: dict[str, Any]) -> list[str]:
    with Loader(settings, device="cpu") as loader:
        found = [name for batch in loader for name in batch.ids]
        assert loader.stats().skipped == {}
    return found


def test_transient_faults_cost_only_time(authority: trustme.CA, server_of: ServerOf) -> None:
    listing, store = dataroom(server_of(authority), server_of(authority))
    listing.fault, store.fault = mischief(3, 0.3), mischief(4, 0.4)
    assert loaded(config(listing)) == names(COUNT)


def test_shards_are_read(authority: trustme.CA, server_of: ServerOf) -> None:
    server = server_of(authority)
    shards = [tar_bytes((f"{name}.jpg", BODY) for name in names(COUNT)[begin::3]) for begin in range(3)]
    urls = [server.script(f"/{number}.tar", Answer(200, body)) for number, body in enumerate(shards)]
    settings = {"source_type": "webdataset", "source_config": {"url": "::".join(urls)}, "http_config": HASTY}
    assert sorted(loaded(settings)) == names(COUNT)


@pytest.mark.parametrize("trusted", [True, False], ids=["another name", "another authority"])
def test_a_listing_that_cannot_prove_who_it_is_never_sees_the_key(
    trusted: bool, authority: trustme.CA, server_of: ServerOf
) -> None:
    server = server_of(authority, "images.example") if trusted else server_of(trustme.CA())
    listing, _ = dataroom(server, server_of(authority))
    with pytest.raises(SourceError, match="certificate of the server cannot be verified"):
        loaded(config(listing))
    assert server.requests == []


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), ("-", "it contains no certificate")])
def test_a_file_of_authorities_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_of: ServerOf, content: str | None, why: str
) -> None:
    if content:
        (tmp_path / "my.pem").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "my.pem"))
    server = server_of(trustme.CA())
    listing, _ = dataroom(server, server)
    with pytest.raises(SourceError) as caught:
        loaded(config(listing))
    assert f"issuer certificate; SSL_CERT_FILE is '{tmp_path}/my.pem', which cannot be used: {why}" in str(caught.value)


def test_payloads_of_a_server_that_cannot_prove_who_it_is_end_the_run(
    authority: trustme.CA, server_of: ServerOf
) -> None:
    listing, store = dataroom(server_of(authority), server_of(trustme.CA()))
    with pytest.raises(SourceError, match="certificate of the server cannot be verified"):
        loaded(config(listing))
    assert store.server.requests == []
