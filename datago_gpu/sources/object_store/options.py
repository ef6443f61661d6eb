"""Builds obstore's arguments for a store: the store's own options, those of its HTTP client, and the retry limits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from datago_gpu.config import HttpConfig
from datago_gpu.config.proxies import OPTION, Proxies
from datago_gpu.config.storage import ENDPOINT_HINT, is_endpoint
from datago_gpu.errors import ConfigError
from datago_gpu.redact import printable

__all__ = ["account_of", "endpoint_of", "plain_name", "proxies_of", "store_options"]

_CLIENT_OPTIONS = frozenset(
    (
        *("allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "http1_only"),
        *("http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_only"),
        *("pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_ca_certificate", "proxy_excludes"),
        *("randomize_addresses", "read_timeout", "root_certificate", "timeout", "user_agent"),
    )
)
"""Options of obstore's HTTP client. obstore takes them separately from a store's; among those, they make it panic."""
_PREFIX = re.compile(r"^(aws|google|azure)_")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Environment variables from which obstore takes an endpoint."""
_FIRST_BACKOFF_S = 0.1


def store_options(root: str, options: Mapping[str, str], limits: HttpConfig, proxies: Proxies) -> dict[str, Any]:
    """Returns the arguments of obstore's `from_url` for a store, such as "s3://bucket". The user's options override
    ours.

    Raises ConfigError if an endpoint in the environment is no address, and ValueError if a proxy is invalid.
    """
    store: dict[str, str] = {}
    given: dict[str, str] = {}
    for name, value in options.items():
        plain = plain_name(name)
        (given if plain in _CLIENT_OPTIONS else store)[plain if plain in _CLIENT_OPTIONS else name] = value
    endpoint = endpoint_of(root, options)
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=limits.connect_timeout_s),
        "read_timeout": timedelta(seconds=limits.stall_timeout_s),
        "timeout": timedelta(seconds=limits.total_timeout_s),
        "allow_http": any(value.startswith("http://") for value in (endpoint, *options.values())),
    }
    if "proxy_url" not in given:
        split = urlsplit(endpoint or "https://")
        client |= proxies.client_options(split.scheme, split.hostname or "", split.port)
    retries = {
        "max_retries": limits.max_tries - 1,
        "backoff": {  # obstore panics if the longest wait is below the first
            "init_backoff": timedelta(seconds=min(_FIRST_BACKOFF_S, limits.max_backoff_s)),
            "max_backoff": timedelta(seconds=limits.max_backoff_s),
        },
        "retry_timeout": timedelta(seconds=limits.total_timeout_s),
    }
    arguments: dict[str, Any] = {"client_options": client | given, "retry_config": retries}
    if store:
        arguments["config"] = store
    if root.startswith("s3://") and (files := _profile_files(options)):
        arguments["credential_provider"] = _credentials_in(files)
    return arguments


def proxies_of(options: Mapping[str, str], limits: HttpConfig) -> Proxies:
    """Returns the proxies for a store: the one of the options, else those of all other requests."""
    given = next((value for name, value in options.items() if plain_name(name) == "proxy_url"), "")
    try:
        if given:
            return Proxies(given, trust_env=False, place=OPTION)
    except ValueError:  # obstore may be able to use it
        pass
    return Proxies(limits.proxy, trust_env=limits.trust_env)


def plain_name(option: str) -> str:
    """Returns the name of an option without the prefix of its store."""
    return _PREFIX.sub("", option.lower())


def endpoint_of(address: str, options: Mapping[str, str]) -> str:
    """Returns the endpoint that the options or the environment name for an address; "" for the store's usual one.

    Raises ConfigError if an endpoint in the environment is no address.
    """
    for name, value in options.items():
        if is_endpoint(name):
            return value.strip().lower()
    for name in _ENDPOINTS.get(address.partition("://")[0], _ENDPOINTS["az"]):
        value = os.environ.get(name, "").strip().lower()
        if value and not value.startswith(("http://", "https://")):
            raise ConfigError(f"the environment variable {name} must begin with {ENDPOINT_HINT}")
        if value:
            return value
    return ""


def account_of(address: str, options: Mapping[str, str]) -> str:
    """Returns the account of Azure in which the container of an address lies; "" if unknown, or of another store."""
    if address.startswith(("s3://", "gs://")):
        return ""
    given = {plain_name(name).removeprefix("storage_"): value for name, value in options.items()}
    return given.get("account_name", "") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")


def _profile_files(options: Mapping[str, str]) -> list[str]:
    """Returns the AWS command line's files, which obstore does not read, if S3's keys must be read from them."""
    given = {name.lower().removeprefix("aws_") for name in options}
    if given & {"access_key_id", "skip_signature"} or os.environ.get("AWS_ACCESS_KEY_ID"):
        return []
    named = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE"), os.environ.get("AWS_CONFIG_FILE")]
    known = [file for file in named if file] or [
        os.path.expanduser(f"~/.aws/{name}") for name in ("credentials", "config")
    ]
    # os.path: returns False for a process without a home, or with an unreadable one.
    return [file for file in known if os.path.exists(file)] if find_spec("boto3") is not None else []


def _credentials_in(files: list[str]) -> Any:
    """Returns obstore's provider of the credentials in these files. Raises ConfigError if the files hold none."""
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except (BotoCoreError, OSError, ValueError) as error:
        raise ConfigError(
            f"no AWS credentials in {' and '.join(map(printable, files))} ({type(error).__name__}): correct the files "
            "and AWS_PROFILE, give keys in storage_options or the environment, or, for a public bucket, set "
            'storage_options to {"skip_signature": "true"}'
        ) from None
