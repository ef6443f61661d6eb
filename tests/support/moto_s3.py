"""An S3 server of moto's, with a bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import boto3
from moto.server import ThreadedMotoServer

__all__ = ["KEY", "SECRET", "s3_client", "s3_server"]

KEY, SECRET = "AKIAEXAMPLE", "wJalrXUtnFEMIsecret"


def s3_client(endpoint: str) -> Any:
    """Makes a boto3 client for a server."""
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )


@contextmanager
def s3_server(bucket: str, objects: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Runs a server whose bucket holds the objects, given as key and content. Yields its endpoint."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = s3_client(endpoint)
    client.create_bucket(Bucket=bucket)
    for key, content in objects:
        client.put_object(Bucket=bucket, Key=key, Body=content)
    client.close()
    yield endpoint
    with urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")):  # else the next server of this process has them
        pass
    server.stop()
