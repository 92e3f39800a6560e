"""The phrases in English."""

from runengine_samples.campaign_bundle.phrases.language import Language, Voice

ENGLISH = Language(
    og_region="GB",
    for_audience="For {audience}",
    counts_for="What counts for {audience}",
    story_heading="About {product}",
    steps_heading="Three steps and you are there",
    steps=(
        ("Take a look", "See what the offer has in store."),
        ("Say yes", "A click or a short message is enough."),
        ("Enjoy", "Sit back and look forward to what is coming."),
    ),
    share_heading="Know someone who would like this?",
    share_text="Pass the card on. Good news travels best among friends.",
    skip_link="Skip to the content",
    page_navigation="This page",
    hero_alt="Illustration for {product}",
    card_alt="Card to share: {product}. {offer}",
    team="The team behind {product}",
    footer="{product}. For {audience}.",
    reply="Simply reply to this e-mail and we will take care of the rest.",
    unsubscribe=(
        "This e-mail reaches you because you asked for news about {product}. "
        "No more news? A reply with the word “Unsubscribe” is enough."
    ),
    link_lead="{call_to_action}: {link}",
    hashtag="#GoodNews",
    themes={
        "time": ("More time for what matters", "Less fuss and fewer detours make the day a little longer."),
        "ease": ("Easy from the start", "No long preparation and no manual to study. Simply begin."),
        "quality": ("Care in every detail", "Well thought out, well made and good to look at."),
        "planet": ("Kind to the planet", "Chosen with an eye on resources, today and tomorrow."),
        "savings": ("Good value", "A fair price, and an offer worth a second look."),
        "health": ("Good for body and mind", "A small step towards feeling well, every single day."),
        "joy": ("A reason to smile", "Everyday life is better with a little delight in it."),
        "safety": ("Something to rely on", "Clear promises, and people who keep them."),
        "together": ("Better together", "Made for sharing with family, friends or the whole team."),
    },
    voices={
        "friendly": Voice(
            headlines=("Say hello to {product}", "Meet {product}, your new favourite"),
            lede=(
                "Made for {audience}, with everyday life in mind. "
                "Come in, look around and find your reason to stay."
            ),
            offer_title="A little something for you",
            call_to_action="Take a look",
            subject_a="Say hello to {product}",
            subject_b="For you: {offer}",
            greeting="Hello,",
            opening="We have news for {audience}: say hello to {product}.",
            closing="We look forward to seeing you.",
            post="Have you met {product}? Made for {audience}, with everyday life in mind.",
        ),
        "bold": Voice(
            headlines=("Make room for {product}", "{product}. No compromises."),
            lede="Built for {audience}. Ready for more. Less waiting and more doing, starting today.",
            offer_title="Your move",
            call_to_action="Get it now",
            subject_a="Make room for {product}",
            subject_b="Your move: {offer}",
            greeting="Hello!",
            opening="It is time to raise the bar. Make room for {product}, built for {audience}.",
            closing="The next move is yours.",
            post="Make room for {product}. Built for {audience}. Ready for more.",
        ),
        "elegant": Voice(
            headlines=("Introducing {product}", "{product}, quietly remarkable"),
            lede=(
                "Conceived for {audience}. "
                "Considered in every detail, and a pleasure from the very first moment."
            ),
            offer_title="With our compliments",
            call_to_action="Discover more",
            subject_a="Introducing {product}",
            subject_b="An invitation: {offer}",
            greeting="Good day,",
            opening="It is our pleasure to introduce {product}, conceived for {audience}.",
            closing="With our kind regards",
            post="Introducing {product}. Conceived for {audience}, considered in every detail.",
        ),
        "playful": Voice(
            headlines=("Psst! Have you seen {product}?", "Hooray for {product}"),
            lede=(
                "Here comes something for {audience}: "
                "a dash of fun, a pinch of clever and plenty of reasons to smile."
            ),
            offer_title="Look what we found",
            call_to_action="Show me",
            subject_a="Psst! Have you seen {product}?",
            subject_b="Look what we found: {offer}",
            greeting="Hey there!",
            opening="Guess what? We have been up to something for {audience}. Three cheers for {product}!",
            closing="See you in a blink!",
            post="Psst! Have you seen {product}? Plenty of reasons to smile for {audience}.",
        ),
        "plain": Voice(
            headlines=("Now available: {product}", "New: {product}"),
            lede="Made for {audience}. This page shows what there is, and how to get it.",
            offer_title="The offer",
            call_to_action="See the offer",
            subject_a="Now available: {product}",
            subject_b="Offer: {offer}",
            greeting="Hello,",
            opening="Now available for {audience}: {product}.",
            closing="Kind regards",
            post="Now available: {product}. Made for {audience}.",
        ),
    },
)
