"""An object store on S3 and what speaks its protocol: `s3://bucket/prefix?endpoint=http://127.0.0.1:9000`.

Path style, so that any server works. Both checksum options are `when_required`, because the default CRC32 breaks older
servers; SHA-256 is sent explicitly, so the server refuses a body that was damaged on its way. botocore's own retries
are off: `Retrying` does them, in one place, with a bound.

Region, endpoint and profile come from the URL's query (`endpoint`, `region`, `profile`) or, as the credentials do, from
where every AWS tool takes them (environment, shared files, instance role). Secrets are never part of a URL.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from tapehouse.core.errors import MissingError, StoreThrottledError, TapehouseError, UsageError
from tapehouse.dr.store import ObjectInfo, check_condition, check_key, check_prefix, conflict, missing

CONNECTIONS_MAX = 16
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60  # between two bytes, not for a whole object
LIST_PAGE = 1000
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout"}
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "Forbidden", "InvalidToken"}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Location:
    """Where a bucket is; None leaves a setting to AWS's standard chain."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A key pair given by the caller, such as an embedded server's; never printed."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return "Credentials(...)"


class S3Store:
    """Objects in one bucket, below one prefix; connects at the first request."""

    def __init__(self, location: S3Location, credentials: Credentials | None = None) -> None:
        self._location = location
        self._credentials = credentials
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None
        self._connecting = asyncio.Lock()

    @property
    def url(self) -> str:
        location = self._location
        return f"s3://{location.bucket}" + (f"/{location.prefix}" if location.prefix else "")

    async def get(self, key: str) -> bytes:
        client = await self._connected()
        with self._translated(key):
            answer = await client.get_object(Bucket=self._location.bucket, Key=self._name(key))
            async with answer["Body"] as body:
                data: bytes = await body.read()
        if len(data) != answer["ContentLength"]:
            raise StoreThrottledError("the store sent half an object", subject=f"{self.url}/{key}")
        return data

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        check_condition(if_none_match, if_match)
        condition: dict[str, str] = {}
        if if_none_match:
            condition["IfNoneMatch"] = "*"
        if if_match is not None:
            condition["IfMatch"] = if_match
        name = self._name(key)
        client = await self._connected()
        checksum = base64.b64encode(await _sha256(data)).decode()
        with self._translated(key, conditional=bool(condition)):
            answer = await client.put_object(
                Bucket=self._location.bucket, Key=name, Body=data, ChecksumSHA256=checksum, **condition
            )
        return str(answer["ETag"])

    async def head(self, key: str) -> ObjectInfo:
        client = await self._connected()
        with self._translated(key):
            answer = await client.head_object(Bucket=self._location.bucket, Key=self._name(key))
        return ObjectInfo(key=key, size=answer["ContentLength"], etag=answer["ETag"])

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        base = self._location.prefix + "/" if self._location.prefix else ""
        request: dict[str, Any] = {"Bucket": self._location.bucket, "Prefix": base + prefix, "MaxKeys": LIST_PAGE}
        if after:
            request["StartAfter"] = base + after
        client = await self._connected()
        while True:
            with self._translated(prefix):
                answer = await client.list_objects_v2(**request)
            for item in answer.get("Contents", ()):
                key = item["Key"].removeprefix(base)
                if key > after:  # Some servers ignore StartAfter.
                    yield ObjectInfo(key=key, size=item["Size"], etag=item.get("ETag", ""))
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    async def delete(self, key: str) -> None:
        client = await self._connected()
        with self._translated(key):
            await client.delete_object(Bucket=self._location.bucket, Key=self._name(key))

    async def create_bucket(self) -> None:
        """Make the bucket if it is not there; for embedded servers and tests."""
        client = await self._connected()
        with self._translated(""):
            try:
                await client.create_bucket(Bucket=self._location.bucket)
            except client.exceptions.BucketAlreadyOwnedByYou:
                return

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()

    def _name(self, key: str) -> str:
        check_key(key)
        return f"{self._location.prefix}/{key}" if self._location.prefix else key

    async def _connected(self) -> Any:
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._connect()
        return self._client

    async def _connect(self) -> Any:
        config = AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=CONNECTIONS_MAX,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        location, given = self._location, self._credentials
        with self._translated(""):
            session = AioSession(profile=location.profile)
            # S3-compatible servers take any region; where none is configured, the protocol's default is as good.
            region = location.region or session.get_config_variable("region") or "us-east-1"
            return await self._stack.enter_async_context(
                session.create_client(
                    "s3",
                    endpoint_url=location.endpoint,
                    region_name=region,
                    aws_access_key_id=given.access_key if given else None,
                    aws_secret_access_key=given.secret_key if given else None,
                    config=config,
                )
            )

    @contextlib.contextmanager
    def _translated(self, key: str, *, conditional: bool = False) -> Iterator[None]:
        """Turn botocore's errors into ours."""
        try:
            yield
        except ClientError as error:
            raise self._answer(error, key, conditional) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound, NoRegionError) as error:
            raise MissingError(
                f"no usable credentials: {error}",
                subject=self.url,
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        except (BotoConnectionError, HTTPClientError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreThrottledError(
                f"the store does not answer: {_one_line(error)}",
                subject=self._where(key),
                hint="is the endpoint right, and the server up?",
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise UsageError(_one_line(error), subject=self.url, hint="check the store's URL") from error

    def _answer(self, error: ClientError, key: str, conditional: bool) -> TapehouseError:
        """Our error for an answer of the server."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        where = self._where(key)
        if code == "NoSuchBucket":
            return MissingError("there is no such bucket", subject=where, hint="create it, or correct the store's URL")
        if conditional and (status in (409, 412) or code in ("PreconditionFailed", "ConditionalRequestConflict")):
            return conflict(self.url, key, "the condition of the write does not hold")
        if status == 404 and not conditional:
            return missing(self.url, key)
        if status == 404:
            return conflict(self.url, key, "it is gone")
        if (status >= 500 and status != 501) or status == 429 or code in _THROTTLED:
            return StoreThrottledError(f"the store answered {status} {code}", subject=where, hint="try again later")
        if status in (401, 403) or code in _DENIED:
            return UsageError(
                f"the store refused the credentials ({code})", subject=where, hint="check the keys and their rights"
            )
        message = str(error.response.get("Error", {}).get("Message", ""))
        return UsageError(f"the store answered {status} {code}: {message}", subject=where, hint="check the store's URL")

    def _where(self, key: str) -> str:
        endpoint = f" at {self._location.endpoint}" if self._location.endpoint else ""
        return (f"{self.url}/{key}" if key else self.url) + endpoint


async def _sha256(data: bytes) -> bytes:
    """SHA-256; of a large object in a thread."""
    if len(data) < 256 * 1024:
        return hashlib.sha256(data).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).digest())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
