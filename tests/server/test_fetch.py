"""Fetching a clip from an address: what is refused, row by row, and what a host on a real socket can do."""

from __future__ import annotations

import asyncio
import dataclasses
import http.server
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import BusyError, UnsupportedMediaError
from server.addresses import is_public
from server.errors import ApiError
from server.fetch import Fetcher, FetchPolicy, is_domain, parse_url

pytestmark = pytest.mark.anyio

# The head of a wav file, which is enough to be taken for one.
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80>\x00\x00\x00}\x00\x00\x02\x00\x10\x00data"
POLICY = FetchPolicy(domains=("media.example", "*.cdn.example"))


def resolver(*answers: Sequence[str]) -> Any:
    """Answers the first list, then the next, the last one for ever; ``.asked`` is what was looked up."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        resolve.asked.append((host, port))  # type: ignore[attr-defined]
        found = left.pop(0) if len(left) > 1 else left[0]
        if not found:
            raise OSError("no such host")
        return found

    resolve.asked = []  # type: ignore[attr-defined]
    return resolve


# ---- the address as text --------------------------------------------------------------------------------------------

REFUSED = {
    "another scheme": "ftp://media.example/a.mp4",
    "a file of the machine": "file:///etc/passwd",
    "no scheme": "media.example/a.mp4",
    "no host": "https:///a.mp4",
    "http unless allowed": "http://media.example/a.mp4",
    "loopback": "https://127.0.0.1/a.mp4",
    "loopback by name": "https://localhost/a.mp4",
    "loopback, decimal": "https://2130706433/a.mp4",
    "loopback, octal": "https://0177.0.0.1/a.mp4",
    "loopback, hex": "https://0x7f000001/a.mp4",
    "loopback, hex in parts": "https://0x7f.0x0.0x0.0x1/a.mp4",
    "loopback, short": "https://127.1/a.mp4",
    "loopback, v6": "https://[::1]/a.mp4",
    "loopback, mapped": "https://[::ffff:127.0.0.1]/a.mp4",
    "link-local": "https://169.254.169.254/latest/meta-data/",
    "link-local with a zone": "https://[fe80::1%25eth0]/a.mp4",
    "private": "https://10.0.0.8/a.mp4",
    "unspecified": "https://0.0.0.0/a.mp4",
    "a public address without a name": "https://93.184.215.14/a.mp4",
    "metadata by name": "https://metadata.google.internal/computeMetadata/v1/",
    "another host": "https://evil.example/a.mp4",
    "the name as a part of another": "https://media.example.evil.example/a.mp4",
    "the name as another's end": "https://notmedia.example/a.mp4",
    "a wildcard's own domain": "https://cdn.example/a.mp4",
    "a wildcard without its dot": "https://evilcdn.example/a.mp4",
    "credentials": "https://me:word@media.example/a.mp4",
    "a user name": "https://me@media.example/a.mp4",
    "an empty user name": "https://@media.example/a.mp4",
    "the host as a user name": "https://media.example@evil.example/a.mp4",
    "backslash in the authority": "https://media.example\\@evil.example/a.mp4",
    "backslash as a slash": "https:\\\\media.example/a.mp4",
    "backslash in the path": "https://media.example/a\\b.mp4",
    "backslash after the other host": "https://evil.example\\.media.example/a.mp4",
    "percent in the host": "https://media%2eexample/a.mp4",
    "tab": "https://media.example/a\t.mp4",
    "newline": "https://media.example/a.mp4\n",
    "a header": "https://media.example/a HTTP/1.1\r\nX: y",
    "nul": "https://media.example/\x00",
    "space in front": " https://media.example/a.mp4",
    "del": "https://media.example/\x7f",
    "full stop of another script": "https://media。example/a.mp4",
    "letters of another script": "https://mediа.example/a.mp4",
    "full-width digits": "https://１２７.0.0.1/a.mp4",
    "a dot at the end": "https://media.example./a.mp4",
    "two dots": "https://media..example/a.mp4",
    "another port": "https://media.example:8443/a.mp4",
    "the port of ssh": "https://media.example:22/a.mp4",
    "port 0": "https://media.example:0/a.mp4",
    "a port too large": "https://media.example:99999/a.mp4",
    "an empty port": "https://media.example:/a.mp4",
    "too long": "https://media.example/" + "a" * 5000,
    "nothing": "",
}


@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED.keys())
async def test_an_address_is_refused_before_anything_is_looked_up(url: str, tmp_path: Path) -> None:
    resolve = resolver(["127.0.0.1"])
    with pytest.raises(ApiError) as refusal:
        await Fetcher(POLICY, resolve=resolve).fetch(url, tmp_path / "clip", param="messages.0")
    assert (refusal.value.code, refusal.value.status) == ("url_not_allowed", 400)
    assert refusal.value.param == "messages.0"
    assert resolve.asked == []
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_fetched_unless_hosts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="EMOLLAMA_MEDIA_DOMAINS") as refusal:
        await Fetcher(FetchPolicy()).fetch("https://media.example/a.mp4", tmp_path / "clip")
    assert refusal.value.code == "url_not_allowed"


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("https://media.example", "media.example", 443, "/"),
        ("HTTPS://Media.Example/Clips/A.mp4?Token=aB%20+/=", "media.example", 443, "/Clips/A.mp4?Token=aB%20+/="),
        ("https://a.b.cdn.example:443/x#t=3", "a.b.cdn.example", 443, "/x"),
        ("https://media.example?q=1", "media.example", 443, "/?q=1"),
    ],
)
def test_a_plain_address_is_read_as_it_stands(text: str, host: str, port: int, target: str) -> None:
    url = parse_url(text)
    assert (url.scheme, url.host, url.port, url.target) == ("https", host, port, target)
    assert Fetcher(POLICY).check(text) == url


@pytest.mark.parametrize(
    ("entry", "expected"),
    [("a.example", True), ("*.a.example", True), ("*", False), ("*.*.a", False), ("localhost", False), ("", False),
     ("10.0.0.1", False), ("https://a.example", False), ("a.example/x", False), ("*a.example", False)],
)  # fmt: skip
def test_what_may_stand_in_the_list_of_hosts(entry: str, expected: bool) -> None:
    assert is_domain(entry) is expected


# ---- the addresses of a host ----------------------------------------------------------------------------------------

PRIVATE = {
    "loopback": "127.0.0.1",
    "loopback elsewhere": "127.8.8.8",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private a": "10.1.2.3",
    "private b": "172.16.0.1",
    "private c": "192.168.1.1",
    "carrier-grade": "100.64.0.1",
    "metadata in it": "100.100.100.200",
    "link-local": "169.254.169.254",
    "a cloud's agent": "168.63.129.16",
    "protocol assignments": "192.0.0.192",
    "documentation": "192.0.2.1",
    "benchmarking": "198.18.0.1",
    "multicast": "224.0.0.1",
    "multicast elsewhere": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 loopback": "::1",
    "v6 unspecified": "::",
    "v6 mapped loopback": "::ffff:127.0.0.1",
    "v6 mapped metadata": "::ffff:169.254.169.254",
    "v6 mapped private": "::ffff:a00:1",
    "v6 compatible": "::127.0.0.1",
    "6to4 of a private one": "2002:0a00:0001::1",
    "6to4 of a public one": "2002:5db8:d70e::1",
    "nat64 of loopback": "64:ff9b::7f00:1",
    "nat64 of metadata": "64:ff9b::a9fe:a9fe",
    "local nat64": "64:ff9b:1::1",
    "teredo": "2001:0:53aa:64c::1",
    "unique local": "fd00:ec2::254",
    "v6 link-local": "fe80::1",
    "v6 link-local with a zone": "fe80::1%eth0",
    "v6 site-local": "fec0::1",
    "v6 multicast": "ff02::1",
    "v6 documentation": "2001:db8::1",
    "no address": "elsewhere",
}


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE.keys())
async def test_a_host_with_such_an_address_is_not_called(address: str, tmp_path: Path) -> None:
    assert not is_public(address)
    # A public address beside it does not help.
    fetcher = Fetcher(POLICY, resolve=resolver(["93.184.215.14", address]))
    with pytest.raises(ApiError) as refusal:
        await fetcher.fetch("https://media.example/a.mp4", tmp_path / "clip", param="p")
    assert (refusal.value.code, refusal.value.param) == ("url_not_allowed", "p")
    assert address not in refusal.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


async def test_a_host_without_an_address_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="not known") as refusal:
        await Fetcher(POLICY, resolve=resolver([])).fetch("https://media.example/a.mp4", tmp_path / "clip")
    assert refusal.value.code == "url_fetch_failed"


# ---- a host on a real socket ----------------------------------------------------------------------------------------


class Host:
    """A web server on the loopback address; what it is asked stands in ``requests``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.leave = threading.Event()
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests.append((self.headers["host"], self.path))
                host.answer(self)

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def url(self, path: str = "/clip.wav", host: str = "media.example") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def policy(self, **changes: Any) -> FetchPolicy:
        """Our own loopback server counts as public, and nothing else that is not."""
        defaults = {
            "allow_http": True,
            "ports": frozenset({self.port}),
            "is_allowed_address": lambda address: address == "127.0.0.1" or is_public(address),
        }
        return dataclasses.replace(POLICY, **{**defaults, **changes})

    def fetcher(self, resolve: Any = None, tls: ssl.SSLContext | None = None, **changes: Any) -> Fetcher:
        return Fetcher(self.policy(**changes), resolve=resolve or resolver(["127.0.0.1"]), tls=tls)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        status, headers, body = {
            "/clip.wav": (200, {}, WAV + b"\0" * 1000),
            "/page.html": (200, {"content-type": "video/mp4"}, b"<html>" + b"x" * 600_000),
            "/redirect": (302, {"location": "http://169.254.169.254/"}, b""),
            "/here": (302, {"location": "/clip.wav"}, b""),
            "/packed": (200, {"content-encoding": "gzip"}, b"\x1f\x8b" + b"\0" * 100),
            "/empty": (200, {}, b""),
            "/declared": (200, {"content-length": "999999999"}, WAV),
            "/cut": (200, {"content-length": "5000"}, WAV),
            "/endless": (200, {}, WAV),
            "/slow": (200, {}, WAV),
        }.get(path, (404, {}, b"the secret of the inner network"))
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        try:
            while path == "/endless" and not self.leave.is_set():
                handler.wfile.write(b"\0" * 65536)
        except OSError:
            return
        if path == "/slow":
            handler.wfile.flush()
            self.leave.wait(20)

    def stop(self) -> None:
        self.leave.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    started = Host()
    yield started
    started.stop()


async def refused(fetcher: Fetcher, url: str, folder: Path) -> tuple[str, str]:
    with pytest.raises(ApiError) as refusal:
        await fetcher.fetch(url, folder / "clip", param="p")
    assert refusal.value.param == "p"
    assert list(folder.iterdir()) == []
    return refusal.value.code, refusal.value.message


async def test_a_clip_is_fetched_from_the_address_that_was_checked(host: Host, tmp_path: Path) -> None:
    # The second answer would lead into the private network; it is never asked for.
    resolve = resolver(["127.0.0.1"], ["10.0.0.1"])
    host.requests.clear()
    url = host.url("/clip.wav?token=a%2Fb")
    fetched = await host.fetcher(resolve).fetch(url, tmp_path / "clip")
    assert fetched.path.read_bytes() == WAV + b"\0" * 1000
    assert (fetched.num_bytes, fetched.media_type.extension) == (len(WAV) + 1000, ".wav")
    assert resolve.asked == [("media.example", host.port)]
    assert host.requests == [(f"media.example:{host.port}", "/clip.wav?token=a%2Fb")]


async def test_a_dns_that_changes_its_answer_gains_nothing(host: Host, tmp_path: Path) -> None:
    fetcher = host.fetcher(resolver(["127.0.0.1"], ["10.0.0.1"]))
    await fetcher.fetch(host.url(), tmp_path / "clip")
    (tmp_path / "clip").unlink()
    host.requests.clear()
    code, _ = await refused(fetcher, host.url(), tmp_path)
    assert (code, host.requests) == ("url_not_allowed", [])


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/redirect", "url_fetch_failed", "redirect"),
        ("/here", "url_fetch_failed", "redirect"),
        ("/nothing", "url_fetch_failed", "status 404"),
        ("/packed", "url_fetch_failed", "compressed"),
        ("/empty", "url_fetch_failed", "no bytes"),
        ("/cut", "url_fetch_failed", "broke"),
        ("/declared", "url_too_large", "larger than 1 MiB"),
        ("/endless", "url_too_large", "larger than 1 MiB"),
    ],
)
async def test_what_a_host_can_answer(host: Host, tmp_path: Path, path: str, code: str, words: str) -> None:
    found, message = await refused(host.fetcher(max_bytes=2**20), host.url(path), tmp_path)
    assert found == code
    assert words in message
    assert "secret" not in message


async def test_bytes_that_are_no_media_are_not_kept(host: Host, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMediaError):
        await host.fetcher().fetch(host.url("/page.html"), tmp_path / "clip")
    assert list(tmp_path.iterdir()) == []


async def test_a_slow_host_is_given_up(host: Host, tmp_path: Path) -> None:
    code, message = await refused(host.fetcher(total_seconds=0.2), host.url("/slow"), tmp_path)
    assert (code, "within 0.2 s" in message) == ("url_fetch_failed", True)


async def test_a_host_that_nobody_answers_at(host: Host, tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    fetcher = host.fetcher(ports=frozenset({port}))
    code, _ = await refused(fetcher, f"http://media.example:{port}/clip.wav", tmp_path)
    assert code == "url_fetch_failed"


async def test_a_number_of_fetches_is_bounded_and_cancelling_frees_the_place(host: Host, tmp_path: Path) -> None:
    fetcher = host.fetcher(max_fetches=1)
    first = asyncio.create_task(fetcher.fetch(host.url("/slow"), tmp_path / "first"))
    while not (tmp_path / "first").exists():
        await asyncio.sleep(0.01)
    with pytest.raises(BusyError):
        await fetcher.fetch(host.url(), tmp_path / "second")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert list(tmp_path.iterdir()) == []
    assert (await fetcher.fetch(host.url(), tmp_path / "third")).num_bytes


async def test_a_proxy_of_the_environment_is_not_asked(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await host.fetcher().fetch(host.url(), tmp_path / "clip")).num_bytes


async def test_tls_is_for_the_hosts_name(tmp_path: Path) -> None:
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=media.example", "-addext", "subjectAltName=DNS:media.example", "-days", "2")
    files = ("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"))
    try:
        subprocess.run([*command, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate of this test, and is not here")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    asked: list[str | None] = []
    server.sni_callback = lambda sock, name, context: asked.append(name)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    host = Host(server)
    try:
        fetched = await host.fetcher(tls=trusting).fetch(host.url(), tmp_path / "clip")
        assert fetched.num_bytes == len(WAV) + 1000
        assert asked == ["media.example"]
        for fetcher, url in (
            (host.fetcher(tls=trusting), host.url(host="other.cdn.example")),
            (host.fetcher(), host.url()),  # whom nobody of the system's authorities has signed
        ):
            with pytest.raises(ApiError) as refusal:
                await fetcher.fetch(url, tmp_path / "clip-2")
            assert refusal.value.code == "url_fetch_failed"
    finally:
        host.stop()
