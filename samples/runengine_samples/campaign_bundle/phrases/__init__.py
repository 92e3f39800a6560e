"""In which words does a campaign speak? One table of phrases per language."""

from runengine_samples.campaign_bundle.phrases.english import ENGLISH
from runengine_samples.campaign_bundle.phrases.french import FRENCH
from runengine_samples.campaign_bundle.phrases.german import GERMAN
from runengine_samples.campaign_bundle.phrases.language import TONES, Language, Voice
from runengine_samples.campaign_bundle.phrases.spanish import SPANISH

__all__ = ["ENGLISH", "LANGUAGES", "TONES", "Language", "Voice"]

LANGUAGES = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH, "es": SPANISH}
