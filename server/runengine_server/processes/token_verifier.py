"""Builds the verifier of callers' tokens from the settings."""

from __future__ import annotations

from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.auth.jwks import JwksKeys
from runengine_server.settings import Settings, SettingsError


def create_verifier(settings: Settings) -> ClerkVerifier:
    """A verifier with the issuer's key or JWKS URL. Raises SettingsError when either is missing or wrong."""
    if settings.clerk_issuer is None:
        raise SettingsError(
            "RUNENGINE_CLERK_ISSUER is required, with RUNENGINE_CLERK_JWT_KEY or RUNENGINE_CLERK_JWKS_URL; "
            "for development, `runengine-server up` brings its own"
        )
    return ClerkVerifier(
        _keys(settings),
        settings.clerk_issuer,
        settings.clerk_authorized_parties,
        machines=settings.machines,
    )


def _keys(settings: Settings) -> PemKey | JwksKeys:
    if (settings.clerk_jwt_key is None) == (settings.clerk_jwks_url is None):
        raise SettingsError("set one of RUNENGINE_CLERK_JWT_KEY (PEM) and RUNENGINE_CLERK_JWKS_URL")
    if settings.clerk_jwt_key is None:
        try:
            return JwksKeys(str(settings.clerk_jwks_url))
        except ValueError:
            raise SettingsError("RUNENGINE_CLERK_JWKS_URL must be an http:// or https:// URL") from None
    try:
        return PemKey(settings.clerk_jwt_key)
    except ValueError:
        raise SettingsError(
            "RUNENGINE_CLERK_JWT_KEY must be an RSA public key in PEM, of at least 2048 bits"
        ) from None
