"""The sample workflow: a campaign brief becomes a zip with a landing page, mails, posts and pictures."""

from runengine_samples.campaign_bundle.graph import WORKFLOWS

__all__ = ["WORKFLOWS"]
