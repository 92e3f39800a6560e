"""The URL of the signing keys: which one is refused, and whom it has to prove itself to be."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from runengine_server.auth.jwks import JwksKeys
from runengine_server.processes.token_verifier import create_verifier
from runengine_server.settings import Settings, SettingsError

from tests.support.certificates import self_signed
from tests.support.jwks_server import ONE, TWO, Clock, JwksServer
from tests.support.refusals import grpc_answer
from tests.support.stack import Stack
from tests.support.token_forge import Forge


@pytest.mark.parametrize(
    "url",
    [
        "",
        "clerk.example/jwks.json",
        "file:///etc/passwd",
        "ftp://clerk.example/jwks.json",
        "https:///jwks.json",
        "https://user:secret@clerk.example/jwks.json",
        "https://clerk.example:port/jwks.json",
        "https://clerk.example:70000/jwks.json",
        "https://clerk.example/a b",
        "https://clerk.example/a\r\nx: y",
        "https://clerk.example/ä",
    ],
)
async def test_a_url_that_is_not_http_is_refused_at_start_in_one_line(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^RUNENGINE_CLERK_JWKS_URL must be an http:// or https:// URL$"):
        create_verifier(Settings(clerk_issuer="https://clerk.example", clerk_jwks_url=url))


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[JwksServer]:
    """One that speaks TLS, with the certificate that lies in certificate.pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    server = JwksServer()
    listening = await server.start(context)
    yield server
    server.answering.set()
    listening.close()
    await listening.wait_closed()


async def test_https_needs_a_certificate_that_we_trust(
    secure: JwksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await JwksKeys(secure.url, clock=Clock()).find("one") is None
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert await JwksKeys(secure.url, clock=Clock()).find("one") == ONE.public_key()
    assert await JwksKeys(secure.url.replace("localhost", "127.0.0.1"), clock=Clock()).find("one") is None


async def test_the_server_itself_takes_its_keys_from_a_url(
    secure: JwksServer, database_url: str, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    stack = Stack(database_url, state_dir)
    del stack.settings["CLERK_JWT_KEY"]
    try:
        await stack.start("serve", CLERK_JWKS_URL=secure.url)
        async with grpc.aio.insecure_channel(stack.grpc_address) as channel:

            async def code(key: rsa.RSAPrivateKey, kid: str) -> grpc.StatusCode:
                forge = Forge(key)
                token = forge.sign(forge.header(kid=kid), forge.claims())
                answer = await grpc_answer(channel, [("authorization", f"Bearer {token}")])
                assert isinstance(answer.code, grpc.StatusCode)
                return answer.code

            assert await code(ONE, "one") is grpc.StatusCode.NOT_FOUND
            secure.answering.clear()
            assert await code(TWO, "two") is grpc.StatusCode.UNAUTHENTICATED
            assert await code(TWO, "one") is grpc.StatusCode.UNAUTHENTICATED
            assert await code(ONE, "one") is grpc.StatusCode.NOT_FOUND
    finally:
        await stack.stop()
