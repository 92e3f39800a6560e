"""The development key of a state directory: signs tokens that the ordinary verifier accepts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ISSUER = "https://runengine.development"


def private_key(state_dir: Path) -> rsa.RSAPrivateKey:
    """The key of the directory, made and kept (mode 0600) the first time. Raises OSError."""
    path = state_dir / "development_key.pem"
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        state_dir.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        # link() and not rename(): of two that start at once, both must read the same key.
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded


def public_pem(state_dir: Path) -> str:
    """What RUNENGINE_CLERK_JWT_KEY has to be for the tokens of `sign` to be accepted."""
    encoded = (
        private_key(state_dir)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return encoded.decode()


def sign(state_dir: Path, organisation: str, user: str, ttl_seconds: int) -> str:
    """A token shaped like Clerk's version 2, for `user` with `organisation` active."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": user,
        "sts": "active",
        "v": 2,
        "o": {"id": organisation, "rol": "admin", "slg": organisation},
        "iat": now,
        "nbf": now,
        "exp": now + ttl_seconds,
    }
    return jwt.encode(claims, private_key(state_dir), algorithm="RS256", headers={"kid": "development"})
