"""Everyday mistakes with object storage, and whether the error says what to change."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from datago_gpu.config import HttpConfig
from datago_gpu.config.proxies import Proxies
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.object_store.failures import meaning_of
from datago_gpu.sources.object_store.options import store_options
from datago_gpu.sources.object_store.stores import Stores
from tests.support.proxies import ForwardProxy
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import listed

KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "wJalrXUtnFEMIsecret", "region": "us-east-1"}
ELSEWHERE = {"x-amz-bucket-region": "eu-west-1"}
MOVED = Answer(301, b"<Error><Code>PermanentRedirect</Code><Message>Another endpoint.</Message></Error>", ELSEWHERE)
MALFORMED = (b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting "
             b"'eu-west-1'</Message><Region>eu-west-1</Region></Error>")  # fmt: skip
TO_CHANGE = "the bucket is in another region: set region in storage_options, or AWS_REGION, to"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def failing(endpoint: str, options: dict[str, str] | None = None, **http: Any) -> HttpFailure:
    async def main() -> None:
        config = HttpConfig(**{"max_tries": 1, "connect_timeout_s": 2.0, **http})
        await Stores(config, {**KEYS, "endpoint": endpoint, **(options or {})}).get("s3://mine/a.jpg", 9)

    with pytest.raises(HttpFailure) as caught:
        asyncio.run(main())
    assert KEYS["secret_access_key"] not in repr(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (MOVED, f"{TO_CHANGE} 'eu-west-1'"),
        (Answer(301, MOVED.body), f"{TO_CHANGE} the right one (see `aws s3api get-bucket-location`)"),
        (Answer(301, MOVED.body, {"x-amz-bucket-region": "<b>eu</b>"}), f"{TO_CHANGE} the right one"),
        (Answer(400, MALFORMED), f"{TO_CHANGE} 'eu-west-1'"),
    ],
    ids=["301", "301 without a region", "301 with no region's name", "400"],
)
def test_a_bucket_of_another_region_is_told_with_its_region(answer: Answer, words: str) -> None:
    with MisbehavingServer() as server:
        server.script("/mine/a.jpg", answer)
        failure = failing(server.url)
        assert failure.detail.startswith(words)
        assert failure.reason == f"http-{answer.status}"
        assert sum("authorization" not in request.headers for request in server.requests) == (answer.status == 301)


def test_the_region_is_asked_for_once_and_by_way_of_the_proxy() -> None:
    with MisbehavingServer() as server, ForwardProxy({"mine.invalid": server.port}) as proxy:
        for name in ("a", "b"):
            server.script(f"/mine/{name}.jpg", MOVED)
        options = {**KEYS, "endpoint": "http://mine.invalid"}

        async def main() -> list[str]:
            stores, found = Stores(HttpConfig(max_tries=1, proxy=proxy.url), options), []
            for name in ("a", "b"):
                with pytest.raises(HttpFailure) as caught:
                    await stores.get(f"s3://mine/{name}.jpg", 9)
                found.append(caught.value.detail)
            return found

        assert [detail.removeprefix(TO_CHANGE) for detail in asyncio.run(main())] == [" 'eu-west-1'"] * 2
        assert proxy.asked.count("GET http://mine.invalid/mine/a.jpg") == 2
        assert proxy.asked.count("GET http://mine.invalid/mine/b.jpg") == 1


def test_shards_of_another_region_are_a_source_error_that_says_it() -> None:
    with MisbehavingServer() as server:
        server.script("/mine/a.tar", MOVED)
        with pytest.raises(SourceError, match=rf"{TO_CHANGE} 'eu-west-1'\): s3://mine/a.tar$"):
            listed("s3://mine/a.tar", storage_options={**KEYS, "endpoint": server.url})


def test_what_the_store_calls_the_fault_is_told() -> None:
    with MisbehavingServer() as server:
        server.script("/mine/a.jpg", Answer(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"))
        assert failing(server.url).detail == "the store refused the credentials: RequestTimeTooSkewed"
        server.script("/mine/a.jpg", Answer(400, b"<Error><Code>ExpiredToken</Code></Error>"))
        assert str(failing(server.url)) == "s3://mine/a.jpg: http-400 (ExpiredToken)"


def test_http_that_an_option_forbids() -> None:
    with MisbehavingServer() as server:
        failure = failing(server.url, {"allow_http": "false"})
        assert failure.detail == "the endpoint begins with http://, which the option allow_http forbids"


def test_a_store_that_cannot_be_reached_or_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing("http://127.0.0.1:9").detail == "cannot connect to the store: Connection refused"
    assert failing("http://mine.invalid").detail == "the name of the store cannot be resolved"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with MisbehavingServer(tls=context) as server:
        failure = failing(server.url)
        assert failure.reason == "tls"
        assert "certificate of the store cannot be verified: set SSL_CERT_FILE to" in failure.detail
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
        assert f"SSL_CERT_FILE is '{tmp_path}', which cannot be used: " in failing(server.url).detail
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert failing(server.url).status == 404


class Kinds:
    """Stands for obstore's exceptions."""

    class PermissionDeniedError(Exception): ...

    class UnauthenticatedError(Exception): ...

    class PreconditionError(Exception): ...

    class InvalidPathError(Exception): ...


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("Error performing PUT http://169.254.169.254/latest/api/token in 1ms - HTTP error: error sending request",
         "no credentials: storage_options and the environment have none"),
        ("Error performing token request: Error performing GET http://169.254.169.254/metadata in 1ms - HTTP error",
         "no credentials: storage_options"),
        ("Error performing token request: Error performing POST https://oauth.example/token in 1ms - 400",
         "the credentials were not accepted"),
    ],
)  # fmt: skip
def test_no_credentials_are_told_from_a_store_that_is_down(asked: str, words: str) -> None:
    failure = meaning_of("s3://mine/a", Exception(f"Generic S3 error: {asked}"), Kinds, Proxies(environment={}))
    assert failure.reason == "no-credentials"
    assert failure.detail.startswith(words)


def test_a_user_without_a_home_has_no_files_with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes runs such users (runAsUser), as `env -i` does."""

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with MisbehavingServer() as server:
        server.script("/mine/a.jpg", Answer(403))
        options = {"endpoint": server.url, "region": "us-east-1"}

        async def main() -> None:
            await Stores(HttpConfig(max_tries=1, connect_timeout_s=0.5), options).get("s3://mine/a.jpg", 9)

        with pytest.raises(HttpFailure) as caught:
            asyncio.run(main())
        assert caught.value.reason in ("no-credentials", "http-403")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("no file of that kind", "ConfigParseError"),
        (f"[other]\naws_access_key_id = {KEYS['access_key_id']}\n", "ProfileNotFound"),
        (f"[mine]\naws_access_key_id = {KEYS['access_key_id']}\n", "PartialCredentialsError"),
    ],
)
def test_files_of_the_aws_command_line_that_hold_no_credentials_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, why: str
) -> None:
    (tmp_path / "credentials").write_text(content)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    with pytest.raises(ConfigError) as caught:
        store_options("s3://mine", {}, HttpConfig(), Proxies(environment={}))
    assert f"no AWS credentials in {tmp_path}/credentials ({why}): correct the files and AWS_PROFILE" in str(
        caught.value
    )
    assert KEYS["access_key_id"] not in str(caught.value)


def test_files_that_this_user_may_not_look_at_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "\N{LATIN SMALL LETTER E WITH ACUTE}" / "nowhere"))
    arguments = store_options("s3://mine", {}, HttpConfig(), Proxies(environment={}))
    assert "credential_provider" not in arguments
