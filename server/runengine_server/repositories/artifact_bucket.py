"""Artifacts in a bucket of S3, or of what speaks its protocol, or of Google Cloud Storage."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from runengine_server.domain.errors import Unavailable
from runengine_server.repositories.artifact_store import ArtifactStore

if TYPE_CHECKING:  # they are in no module that can be imported
    from obstore.store import ClientConfig, RetryConfig

# A timeout is of the whole request, the body too, and a caller may take long over that; what must not take
# long is each part. To write, read_timeout would count while the body is sent.
_READING: ClientConfig = {"timeout": "1h", "read_timeout": "30s"}
_WRITING: ClientConfig = {"timeout": "5m"}
# By default there are ten retries, which go on for minutes: somebody waits for what is read.
_READ_AGAIN: RetryConfig = {"max_retries": 3}

_CHECK_SECONDS = 20.0

_log = structlog.get_logger()

# What may stand in a header as it is.
_MEDIA_TYPE = re.compile(r"[!-~]+/[!-~]+(; ?[!-~]+)*")

# What a server that refuses says, in an error of obstore 0.12: a status, and a code within XML.
_STATUS = re.compile(r"status code: (\d+)")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_METADATA_SERVER = ("169.254.169.254", "metadata.google.internal")


class BucketUnusable(Exception):
    """The bucket is not there, or its credentials are wrong. The message says so, and has no secret."""


class ArtifactBucket(ArtifactStore):
    """A bucket, or the part of one below a prefix: `s3://bucket/prefix` or `gs://bucket/prefix`.

    Credentials come from the environment, by the names that AWS and Google have for them. `url_seconds`: how
    long a URL is good that `presigned` returns; None for none. Raises BucketUnusable.
    """

    def __init__(self, url: str, url_seconds: int | None) -> None:
        if os.environ.get("AWS_ENDPOINT_URL") == "":
            raise BucketUnusable("AWS_ENDPOINT_URL is empty")  # obstore would panic
        try:
            super().__init__(_opened(url, _READING, _READ_AGAIN))
            self._writing = _opened(url, _WRITING, None)
        except Exception as error:
            missing = re.search(r"Missing (\w+)", str(error))
            what = f"{missing[1]} is missing" if missing else "they cannot be read"
            raise BucketUnusable(f"the credentials in the environment: {what}") from None
        self.presigns = url_seconds is not None
        self._expires_in = None if url_seconds is None else timedelta(seconds=url_seconds)

    async def check(self) -> None:
        """Raises BucketUnusable where the bucket cannot be listed, or no URL of it signed."""
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._store.list("check").collect_async()
                await self._sign("check")
        except TimeoutError:
            raise BucketUnusable("it does not respond") from None
        except Exception as error:
            raise BucketUnusable(_words_of(str(error))) from None

    async def put(self, key: str, data: bytes, name: str, media_type: str) -> None:  # noqa: D102
        # As one request: a worker that is killed on the way leaves nothing, and not parts that no list
        # shows. The attributes are for whoever has a presigned URL, to whom the bucket responds itself.
        attributes = {
            "Content-Type": media_type if _MEDIA_TYPE.fullmatch(media_type) else "application/octet-stream",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        }
        await self._writing.put_async(key, data, attributes=attributes, use_multipart=False)

    async def delete_all(self, keys: Sequence[str]) -> None:  # noqa: D102
        await self._store.delete_async(keys)

    async def delete_unfinished(self, seconds: float) -> int:  # noqa: D102
        return 0

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """As that of ArtifactStore. Raises Unavailable too."""
        with _translated():
            async for chunk in super().read(key):
                yield chunk

    async def presigned(self, key: str) -> str | None:  # noqa: D102
        with _translated():
            return await self._sign(key)

    async def _sign(self, key: str) -> str | None:
        if self._expires_in is None:
            return None
        assert isinstance(self._store, S3Store | GCSStore)
        # The path of Google's is signed as it is given, while put and get quote it (obstore 0.12).
        path = quote(key) if isinstance(self._store, GCSStore) else key
        return await obstore.sign_async(self._store, "GET", path, self._expires_in)


def _opened(url: str, client: ClientConfig, retry: RetryConfig | None) -> S3Store | GCSStore:
    kind = S3Store if url.startswith("s3:") else GCSStore
    # Options that are given here replace all those of the environment.
    allow_http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on", "y", "t")
    return kind.from_url(url, client_options={**client, "allow_http": allow_http}, retry_config=retry)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        _log.error("the bucket cannot be used", why=_words_of(str(error)))
        raise Unavailable("bucket of artifacts") from error


def _words_of(error: str) -> str:
    """What an error of obstore says, without what may be a secret in it, such as the request."""
    if any(place in error for place in _METADATA_SERVER):
        return "there are no credentials for it in the environment"
    if "redirect without LOCATION" in error:
        return "it is in another region: set AWS_REGION"
    code, status = _CODE.search(error), _STATUS.search(error)
    reason = f" ({code[1]})" if code else ""
    if status is None:
        return f"it does not respond{reason}"
    if status[1] == "404":
        return f"there is no such bucket{reason}"
    if status[1] in ("400", "401", "403"):
        return f"it refuses the credentials in the environment{reason}"
    return f"it responds with {status[1]}{reason}"
