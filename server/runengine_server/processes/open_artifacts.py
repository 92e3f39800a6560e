"""Opens the artifacts where the settings have them."""

from __future__ import annotations

from runengine_server.repositories.artifact_bucket import ArtifactBucket, BucketUnusable
from runengine_server.repositories.artifact_store import ArtifactDirectory, ArtifactStore
from runengine_server.settings import Settings, SettingsError


async def open_artifact_store(settings: Settings) -> ArtifactStore:
    """The store of artifacts. Raises SettingsError when the directory cannot be written, or the bucket not be
    used.
    """
    if (url := settings.artifact_bucket) is not None:
        try:
            bucket = ArtifactBucket(url, settings.bundle_url_seconds)
            await bucket.check()
        except BucketUnusable as error:
            raise SettingsError(f"RUNENGINE_ARTIFACTS_URL: {url} cannot be used: {error}") from None
        return bucket
    if settings.bundle_url_seconds is not None:
        raise SettingsError(
            "RUNENGINE_BUNDLE_URL_SECONDS needs artifacts in a bucket: give its RUNENGINE_ARTIFACTS_URL"
        )
    try:
        return ArtifactDirectory(settings.artifact_directory)
    except Exception as error:
        variable = "RUNENGINE_STATE_DIR" if settings.artifacts_url is None else "RUNENGINE_ARTIFACTS_URL"
        raise SettingsError(f"{variable}: cannot write {settings.artifact_directory}: {error}") from None
