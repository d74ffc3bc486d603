"""Fetches a clip from an address that a request names, without becoming anybody's way into our own network.

Off unless the operator names the hosts. One parser reads an address for the check and for the connection, and takes
only plain ones; the host is looked up once, every address it has must be public, and the connection goes to one that
was checked, under the host's name for TLS and HTTP. Nothing is followed elsewhere, no proxy of the environment is
used, nothing is sent but the request. What arrives is counted and timed while it streams to the disk, and is given up
as soon as its first bytes are not media. What goes wrong is told without what the other side said.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emollama.errors import BusyError
from emollama.sniff import HEAD_BYTES, MediaType, sniff
from server.addresses import is_public
from server.errors import ApiError

if TYPE_CHECKING:
    import httpx

MAX_URL_CHARS = 4096
_CHUNK_BYTES = 256 * 1024
_MAX_ATTEMPTS = 3  # of a host's addresses
_RETRY_SECONDS = 2.0
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# At least two labels, the last one with a letter in front: no localhost, no address, in no notation.
_HOST = rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>/[!$-;=?-Z_a-z~%@\[\]]*)?(?P<query>\?[!$-;=?-Z_a-z~%@\[\]]*)?(?:#[!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_DOMAIN = re.compile(rf"(\*\.)?{_HOST}", re.ASCII)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class Url:
    """An address as the one parser read it; ``target`` is path and query as they are sent."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """From where a clip may be fetched (``domains``: ``host`` or ``*.domain``; none: from nowhere), and its cost."""

    domains: tuple[str, ...] = ()
    allow_http: bool = False
    ports: frozenset[int] = frozenset(_DEFAULT_PORTS.values())
    max_bytes: int = 100 * 1024 * 1024
    max_fetches: int = 8
    connect_seconds: float = 5.0
    total_seconds: float = 30.0
    is_allowed_address: Callable[[str], bool] = is_public

    def allows_host(self, host: str) -> bool:
        return any(host.endswith(entry[1:]) if entry.startswith("*.") else host == entry for entry in self.domains)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that was fetched: where it lies, its size, and what its first bytes say it is."""

    path: Path
    num_bytes: int
    media_type: MediaType


def is_domain(entry: str) -> bool:
    """Whether a text may stand in the list of hosts: ``host.example`` or ``*.host.example``, in lower case."""
    return len(entry) <= 255 and _DOMAIN.fullmatch(entry) is not None


def parse_url(text: str, *, param: str | None = None) -> Url:
    """Read an address strictly; raises `ApiError` (``url_not_allowed``) for everything but a plain one.

    There is no user name, no backslash, no control character, no letter outside ASCII, no address in place of a host
    name. A fragment is for browsers and is dropped.
    """
    match = _URL.fullmatch(text) if len(text) <= MAX_URL_CHARS else None
    if match is None or len(match["host"]) > 253:
        message = (
            "the address is not allowed; allowed: a plain https://host/path, percent-encoded, with a host's name and "
            f"without a user's, of at most {MAX_URL_CHARS} characters"
        )
        raise ApiError("url_not_allowed", message, param=param)
    scheme, host = match["scheme"].lower(), match["host"].lower()
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    return Url(scheme=scheme, host=host, port=port, target=(match["path"] or "/") + (match["query"] or ""))


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host; raises OSError when it has none."""
    import socket

    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Fetcher:
    """Fetches under a policy; ``resolve`` looks hosts up, ``tls`` verifies them (default: the system's authorities)."""

    def __init__(
        self, policy: FetchPolicy, *, resolve: Resolve = resolve_host, tls: ssl.SSLContext | None = None
    ) -> None:
        self.policy = policy
        self._resolve, self._tls = resolve, tls
        self._num_fetches = 0

    def check(self, text: str, *, param: str | None = None) -> Url:
        """Return the address when the policy allows it by name; touches no network. Raises ``url_not_allowed``."""
        if not self.policy.domains:
            message = (
                "this service fetches nothing: send the clip as a data: URL, or upload it (EMOLLAMA_MEDIA_DOMAINS)"
            )
            raise ApiError("url_not_allowed", message, param=param)
        url = parse_url(text, param=param)
        if url.scheme != "https" and not self.policy.allow_http:
            raise ApiError("url_not_allowed", "the address is http; allowed: https", param=param)
        if url.port not in self.policy.ports:
            raise ApiError("url_not_allowed", f"port {url.port} is not allowed", param=param)
        if not self.policy.allows_host(url.host):
            message = f"host {url.host[:100]!r} is not one that this service fetches from"
            raise ApiError("url_not_allowed", message, param=param)
        return url

    async def fetch(self, text: str, target: Path, *, param: str | None = None) -> Fetched:
        """Fetch a clip into the new file ``target``, which is removed when that fails; cancelling ends it at once.

        Raises `ApiError` with ``url_not_allowed``, ``url_fetch_failed`` or ``url_too_large``, naming ``param``;
        `UnsupportedMediaError` when the bytes are not media; `BusyError` over ``max_fetches``.
        """
        url = self.check(text, param=param)
        if self._num_fetches >= self.policy.max_fetches:
            message = f"{self._num_fetches} clips are being fetched; try again in {_RETRY_SECONDS:.0f} s"
            raise BusyError(message, retry_after_seconds=_RETRY_SECONDS)
        self._num_fetches += 1
        try:
            async with asyncio.timeout(self.policy.total_seconds):
                return await self._fetch(url, target, param)
        except BaseException as exc:
            target.unlink(missing_ok=True)
            if isinstance(exc, TimeoutError):
                message = f"the clip could not be fetched within {self.policy.total_seconds:g} s"
                raise ApiError("url_fetch_failed", message, param=param) from exc
            raise
        finally:
            self._num_fetches -= 1

    async def _fetch(self, url: Url, target: Path, param: str | None) -> Fetched:
        import httpx

        addresses = await self._addresses(url, param)
        timeout = httpx.Timeout(self.policy.total_seconds, connect=self.policy.connect_seconds)
        tls = self._tls if self._tls is not None else url.scheme == "https"
        # Neither proxies nor credentials of the environment, no redirect, and no answer packed smaller than it is.
        async with httpx.AsyncClient(verify=tls, trust_env=False, timeout=timeout, follow_redirects=False) as client:
            for attempt, address in enumerate(addresses, 1):
                try:
                    async with client.stream(
                        "GET",
                        httpx.URL(scheme=url.scheme, host=address, port=url.port, raw_path=url.target.encode("ascii")),
                        headers={"host": url.authority, "accept-encoding": "identity", "user-agent": "emollama"},
                        extensions={"sni_hostname": url.host},
                    ) as response:
                        return await self._receive(response, target, param)
                except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                    if attempt == len(addresses):
                        raise _failed("no connection could be made to its host", param) from exc
                except httpx.HTTPError as exc:
                    raise _failed("its host broke the connection off", param) from exc
        raise AssertionError("a host has at least one address")

    async def _addresses(self, url: Url, param: str | None) -> Sequence[str]:
        """Return the addresses to connect to; one that is not allowed condemns the host."""
        try:
            found = list(dict.fromkeys(await self._resolve(url.host, url.port)))
        except OSError as exc:
            raise _failed("its host is not known", param) from exc
        if not found:
            raise _failed("its host is not known", param)
        if not all(self.policy.is_allowed_address(address) for address in found):
            message = f"host {url.host[:100]!r} has an address that this service does not call"
            raise ApiError("url_not_allowed", message, param=param)
        return found[:_MAX_ATTEMPTS]

    async def _receive(self, response: httpx.Response, target: Path, param: str | None) -> Fetched:
        if response.is_redirect:
            raise _failed("its host answered with a redirect, which is not followed", param)
        if response.status_code != 200:
            raise _failed(f"its host answered with status {response.status_code}", param)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _failed("its host sent it compressed", param)
        too_large = ApiError(
            "url_too_large", f"the clip is larger than {self.policy.max_bytes / 2**20:g} MiB", param=param
        )
        declared = response.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self.policy.max_bytes:
            raise too_large
        head, num_bytes, is_media = bytearray(), 0, False
        with target.open("xb") as file:
            async for chunk in response.aiter_raw(_CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes > self.policy.max_bytes:
                    raise too_large
                if not is_media:
                    head += chunk[: HEAD_BYTES - len(head)]
                    if len(head) >= HEAD_BYTES:
                        sniff(bytes(head))
                        is_media = True
                await asyncio.to_thread(file.write, chunk)
        if not num_bytes:
            raise _failed("it has no bytes", param)
        return Fetched(path=target, num_bytes=num_bytes, media_type=sniff(bytes(head)))


def _failed(why: str, param: str | None) -> ApiError:
    return ApiError("url_fetch_failed", f"the clip could not be fetched: {why}", param=param)
