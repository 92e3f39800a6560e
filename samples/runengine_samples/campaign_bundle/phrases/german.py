"""The phrases in German."""

from runengine_samples.campaign_bundle.phrases.language import Language, Voice

GERMAN = Language(
    og_region="DE",
    for_audience="Für {audience}",
    counts_for="Was für {audience} zählt",
    story_heading="Über {product}",
    steps_heading="In drei Schritten am Ziel",
    steps=(
        ("Anschauen", "Sehen, was im Angebot steckt."),
        ("Zusagen", "Ein Klick oder eine kurze Nachricht genügt."),
        ("Genießen", "Zurücklehnen und sich auf das freuen, was kommt."),
    ),
    share_heading="Wem könnte das auch gefallen?",
    share_text="Die Karte einfach weitergeben. Gute Nachrichten reisen am besten unter Freunden.",
    skip_link="Zum Inhalt springen",
    page_navigation="Diese Seite",
    hero_alt="Illustration zu {product}",
    card_alt="Karte zum Teilen: {product}. {offer}",
    team="Das Team hinter {product}",
    footer="{product}. Für {audience}.",
    reply="Eine kurze Antwort auf diese E-Mail genügt, um den Rest kümmern wir uns.",
    unsubscribe=(
        "Diese E-Mail kommt, weil Neuigkeiten zu {product} abonniert wurden. "
        "Keine Neuigkeiten mehr? Eine Antwort mit dem Wort „Abmelden“ genügt."
    ),
    link_lead="{call_to_action}: {link}",
    hashtag="#GuteNachrichten",
    themes={
        "time": ("Mehr Zeit für das Wichtige", "Weniger Umwege, weniger Aufwand: So wird der Tag länger."),
        "ease": (
            "Einfach von Anfang an",
            "Keine lange Vorbereitung, keine dicke Anleitung. Einfach loslegen.",
        ),
        "quality": ("Sorgfalt bis ins Detail", "Gut durchdacht, gut gemacht und schön anzusehen."),
        "planet": ("Gut für die Umwelt", "Mit Blick auf das ausgewählt, was heute und morgen zählt."),
        "savings": ("Mehr fürs Geld", "Ein fairer Preis und ein Angebot, das einen zweiten Blick lohnt."),
        "health": ("Wohltuend für Körper und Kopf", "Jeden Tag ein kleiner Schritt zu mehr Wohlbefinden."),
        "joy": ("Ein Grund zum Lächeln", "Denn mit ein wenig Freude wird der Alltag leichter."),
        "safety": ("Darauf ist Verlass", "Klare Versprechen und Menschen, die sie halten."),
        "together": ("Gemeinsam schöner", "Zum Teilen gemacht: mit Familie, Freunden oder dem ganzen Team."),
    },
    voices={
        "friendly": Voice(
            headlines=("Sag Hallo zu {product}", "Lerne {product} kennen"),
            lede=(
                "Gemacht für {audience} und mitten aus dem Alltag. "
                "Schau dich um und finde heraus, was dir gefällt."
            ),
            offer_title="Eine kleine Freude für dich",
            call_to_action="Jetzt ansehen",
            subject_a="Sag Hallo zu {product}",
            subject_b="Für dich: {offer}",
            greeting="Hallo!",
            opening="Wir haben Neuigkeiten für {audience}: Sag Hallo zu {product}.",
            closing="Wir freuen uns auf dich.",
            post="Kennst du schon {product}? Gemacht für {audience} und mitten aus dem Alltag.",
        ),
        "bold": Voice(
            headlines=("Platz da für {product}", "{product}. Ohne Kompromisse."),
            lede="Gebaut für {audience}. Bereit für mehr. Weniger warten, mehr machen, und zwar ab heute.",
            offer_title="Du bist dran",
            call_to_action="Jetzt zugreifen",
            subject_a="Platz da für {product}",
            subject_b="Du bist dran: {offer}",
            greeting="Hallo!",
            opening="Zeit, die Latte höher zu legen. Platz da für {product}, gebaut für {audience}.",
            closing="Der nächste Zug gehört dir.",
            post="Platz da für {product}. Gebaut für {audience}. Bereit für mehr.",
        ),
        "elegant": Voice(
            headlines=("Wir stellen vor: {product}", "{product}, auf leise Art besonders"),
            lede=(
                "Erdacht für {audience}. "
                "Durchdacht bis ins Detail und ein Vergnügen vom ersten Augenblick an."
            ),
            offer_title="Mit unserer Empfehlung",
            call_to_action="Mehr entdecken",
            subject_a="Wir stellen vor: {product}",
            subject_b="Eine Einladung: {offer}",
            greeting="Guten Tag,",
            opening="mit Freude stellen wir Ihnen {product} vor, erdacht für {audience}.",
            closing="Mit den besten Grüßen",
            post="Wir stellen vor: {product}. Erdacht für {audience}, durchdacht bis ins Detail.",
        ),
        "playful": Voice(
            headlines=("Psst! Schon {product} gesehen?", "Ein Hoch auf {product}"),
            lede=(
                "Hier kommt etwas für {audience}: "
                "ein Löffel Spaß, eine Prise Pfiff und jede Menge Gründe zum Grinsen."
            ),
            offer_title="Guck mal, was wir gefunden haben",
            call_to_action="Zeig her",
            subject_a="Psst! Schon {product} gesehen?",
            subject_b="Guck mal: {offer}",
            greeting="Hallöchen!",
            opening="Rate mal, was wir für {audience} ausgeheckt haben. Ein dreifaches Hoch auf {product}!",
            closing="Bis gleich!",
            post="Psst! Schon {product} gesehen? Jede Menge Gründe zum Grinsen für {audience}.",
        ),
        "plain": Voice(
            headlines=("Jetzt erhältlich: {product}", "Neu: {product}"),
            lede="Gemacht für {audience}. Diese Seite zeigt, was es gibt und wie man es bekommt.",
            offer_title="Das Angebot",
            call_to_action="Zum Angebot",
            subject_a="Jetzt erhältlich: {product}",
            subject_b="Angebot: {offer}",
            greeting="Guten Tag,",
            opening="jetzt erhältlich für {audience}: {product}.",
            closing="Freundliche Grüße",
            post="Jetzt erhältlich: {product}. Gemacht für {audience}.",
        ),
    },
)
