"""In which words does a campaign speak? One table of phrases per language.

A phrase never inflects what the brief gave: {product} stands where no verb or article has to agree
with it, {audience} only follows "for", and {offer} is a sentence of its own or follows a colon.
Apostrophes are written straight here and become typographic when a phrase is spoken.
"""

from __future__ import annotations

from dataclasses import dataclass

TONES = ("bold", "elegant", "friendly", "plain", "playful")


@dataclass(frozen=True, slots=True)
class Voice:
    """How one tone speaks."""

    headlines: tuple[str, str]
    lede: str
    offer_title: str
    call_to_action: str
    subject_a: str
    subject_b: str
    greeting: str
    opening: str
    closing: str
    post: str


@dataclass(frozen=True, slots=True)
class Language:
    """What every tone of one language shares; a theme is a title and a sentence."""

    og_region: str
    for_audience: str
    counts_for: str
    story_heading: str
    steps_heading: str
    steps: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    share_heading: str
    share_text: str
    skip_link: str
    page_navigation: str
    hero_alt: str
    card_alt: str
    team: str
    footer: str
    reply: str
    unsubscribe: str
    link_lead: str
    hashtag: str
    themes: dict[str, tuple[str, str]]
    voices: dict[str, Voice]


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

FRENCH = Language(
    og_region="FR",
    for_audience="Pour {audience}",
    counts_for="Ce qui compte pour {audience}",
    story_heading="En savoir plus sur {product}",
    steps_heading="Trois étapes, et c'est fait",
    steps=(
        ("Regarder", "Voir ce que l'offre réserve."),
        ("Dire oui", "Un clic ou un court message suffit."),
        ("Profiter", "Il ne reste qu'à se réjouir de la suite."),
    ),
    share_heading="À qui cela pourrait-il plaire ?",
    share_text="Cette carte ne demande qu'à circuler. Les bonnes nouvelles voyagent mieux entre amis.",
    skip_link="Aller au contenu",
    page_navigation="Cette page",
    hero_alt="Illustration pour {product}",
    card_alt="Carte à partager : {product}. {offer}",
    team="Toute l'équipe de {product}",
    footer="{product}. Pour {audience}.",
    reply="Une simple réponse à cet e-mail suffit, nous nous occupons du reste.",
    unsubscribe=(
        "Cet e-mail fait suite à une demande de nouvelles sur {product}. "
        "Plus envie d'en recevoir ? Une réponse avec le mot « Désinscription » suffit."
    ),
    link_lead="{call_to_action} : {link}",
    hashtag="#BonneNouvelle",
    themes={
        "time": (
            "Du temps pour l'essentiel",
            "Moins de détours, moins d'efforts : la journée s'allonge un peu.",
        ),
        "ease": ("Simple dès le début", "Ni longue préparation ni mode d'emploi. Il suffit de commencer."),
        "quality": ("Du soin jusqu'au détail", "Bien pensé, bien fait et agréable à regarder."),
        "planet": ("Un geste pour la planète", "Un choix fait en pensant à aujourd'hui et à demain."),
        "savings": ("Le juste prix", "Un prix honnête et une offre qui mérite un second regard."),
        "health": ("Du bien au corps et à l'esprit", "Chaque jour, un petit pas vers plus de bien-être."),
        "joy": ("Une raison de sourire", "Car le quotidien est plus doux avec un peu de joie."),
        "safety": ("De quoi avoir confiance", "Des promesses claires et des gens qui les tiennent."),
        "together": ("Encore mieux à plusieurs", "À partager en famille, entre amis ou avec toute l'équipe."),
    },
    voices={
        "friendly": Voice(
            headlines=("Dites bonjour à {product}", "Faites connaissance avec {product}"),
            lede=(
                "Une idée pour {audience}, au plus près du quotidien. "
                "Entrez, regardez autour de vous et trouvez ce qui vous plaît."
            ),
            offer_title="Une petite attention pour vous",
            call_to_action="Jeter un œil",
            subject_a="Dites bonjour à {product}",
            subject_b="Pour vous : {offer}",
            greeting="Bonjour,",
            opening="Nous avons une bonne nouvelle pour {audience} : dites bonjour à {product}.",
            closing="Au plaisir de vous retrouver.",
            post="Connaissez-vous {product} ? Une idée pour {audience}, au plus près du quotidien.",
        ),
        "bold": Voice(
            headlines=("Place à {product}", "{product}. Sans compromis."),
            lede="Pour {audience}. Pour aller plus loin. Moins d'attente, plus d'action, dès aujourd'hui.",
            offer_title="À vous de jouer",
            call_to_action="J'en profite",
            subject_a="Place à {product}",
            subject_b="À vous de jouer : {offer}",
            greeting="Bonjour !",
            opening="Il est temps de viser plus haut. Place à {product}, pour {audience}.",
            closing="À vous de jouer.",
            post="Place à {product}. Pour {audience}. Pour aller plus loin.",
        ),
        "elegant": Voice(
            headlines=("Découvrez {product}", "{product}, tout en délicatesse"),
            lede=(
                "Une création pour {audience}. "
                "Une attention portée à chaque détail, et du plaisir dès le premier instant."
            ),
            offer_title="Avec nos compliments",
            call_to_action="Découvrir",
            subject_a="Découvrez {product}",
            subject_b="Une invitation : {offer}",
            greeting="Bonjour,",
            opening="Nous avons le plaisir de vous présenter {product}, une création pour {audience}.",
            closing="Avec nos salutations les meilleures",
            post="Découvrez {product}. Une création pour {audience}, soignée jusqu'au moindre détail.",
        ),
        "playful": Voice(
            headlines=("Psst ! Tu as vu {product} ?", "Trois hourras pour {product}"),
            lede=(
                "Voici de quoi faire plaisir, rien que pour {audience} : "
                "une dose de fantaisie, un brin de malice et plein de raisons de sourire."
            ),
            offer_title="Regarde ce qu'on a trouvé",
            call_to_action="Montre-moi",
            subject_a="Psst ! Tu as vu {product} ?",
            subject_b="Regarde : {offer}",
            greeting="Coucou !",
            opening="Devine ce qu'on a préparé pour {audience}. Trois hourras pour {product} !",
            closing="À tout de suite !",
            post="Psst ! Tu as vu {product} ? Plein de raisons de sourire pour {audience}.",
        ),
        "plain": Voice(
            headlines=("Disponible dès maintenant : {product}", "Nouveau : {product}"),
            lede="Pour {audience}. Cette page montre ce qui est proposé et comment en profiter.",
            offer_title="L'offre",
            call_to_action="Voir l'offre",
            subject_a="Disponible dès maintenant : {product}",
            subject_b="Offre : {offer}",
            greeting="Bonjour,",
            opening="Disponible dès maintenant pour {audience} : {product}.",
            closing="Cordialement",
            post="Disponible dès maintenant : {product}. Pour {audience}.",
        ),
    },
)

SPANISH = Language(
    og_region="ES",
    for_audience="Para {audience}",
    counts_for="Lo que cuenta para {audience}",
    story_heading="Más sobre {product}",
    steps_heading="Tres pasos y listo",
    steps=(
        ("Mirar", "Ver todo lo que trae la oferta."),
        ("Decir que sí", "Basta un clic o un mensaje corto."),
        ("Disfrutar", "Solo queda alegrarse por lo que viene."),
    ),
    share_heading="¿A quién más le podría gustar?",
    share_text="Esta tarjeta está hecha para compartir. Las buenas noticias viajan mejor entre amigos.",
    skip_link="Ir al contenido",
    page_navigation="Esta página",
    hero_alt="Ilustración para {product}",
    card_alt="Tarjeta para compartir: {product}. {offer}",
    team="El equipo de {product}",
    footer="{product}. Para {audience}.",
    reply="Basta con responder a este correo y nos ocupamos del resto.",
    unsubscribe=(
        "Este correo llega porque alguien pidió novedades sobre {product} desde esta dirección. "
        "¿No más novedades? Basta una respuesta con la palabra «Baja»."
    ),
    link_lead="{call_to_action}: {link}",
    hashtag="#BuenasNoticias",
    themes={
        "time": ("Más tiempo para lo importante", "Menos rodeos y menos esfuerzo: el día se alarga un poco."),
        "ease": ("Fácil desde el principio", "Sin largos preparativos ni manuales. Solo hay que empezar."),
        "quality": ("Cuidado en cada detalle", "Bien pensado, bien hecho y agradable a la vista."),
        "planet": ("Un gesto con el planeta", "Una elección que piensa en hoy y en mañana."),
        "savings": ("Más por menos", "Un precio justo y una oferta que merece una segunda mirada."),
        "health": ("Bueno para cuerpo y mente", "Cada día, un pequeño paso hacia el bienestar."),
        "joy": ("Una razón para sonreír", "Porque con un poco de alegría el día a día sabe mejor."),
        "safety": ("Confianza ante todo", "Promesas claras y personas que las cumplen."),
        "together": ("Mejor en compañía", "Para compartir en familia, con amigos o con todo el equipo."),
    },
    voices={
        "friendly": Voice(
            headlines=("Saluda a {product}", "Te presentamos {product}"),
            lede=(
                "Una idea para {audience}, pensada para el día a día. "
                "Entra, echa un vistazo y encuentra lo que te gusta."
            ),
            offer_title="Un pequeño detalle para ti",
            call_to_action="Echar un vistazo",
            subject_a="Te presentamos {product}",
            subject_b="Para ti: {offer}",
            greeting="¡Hola!",
            opening="Tenemos novedades para {audience}: te presentamos {product}.",
            closing="Te esperamos con ilusión.",
            post="¿Ya conoces {product}? Una idea para {audience}, pensada para el día a día.",
        ),
        "bold": Voice(
            headlines=("Abre paso a {product}", "{product}. Sin concesiones."),
            lede="Para {audience}. Para quien quiere más. Menos esperas y más acción, desde hoy mismo.",
            offer_title="Te toca a ti",
            call_to_action="Lo quiero ya",
            subject_a="Abre paso a {product}",
            subject_b="Te toca a ti: {offer}",
            greeting="¡Hola!",
            opening="Es hora de subir el listón. Abre paso a {product}, para {audience}.",
            closing="El próximo paso es tuyo.",
            post="Abre paso a {product}. Para {audience}. Para quien quiere más.",
        ),
        "elegant": Voice(
            headlines=("Le presentamos {product}", "{product}, el placer de lo discreto"),
            lede=(
                "Una creación para {audience}. Cada detalle con esmero, y un placer desde el primer instante."
            ),
            offer_title="Con nuestra atención",
            call_to_action="Descubrir más",
            subject_a="Le presentamos {product}",
            subject_b="Una invitación: {offer}",
            greeting="Buenos días:",
            opening="Es un placer presentarle {product}, una creación para {audience}.",
            closing="Con un cordial saludo",
            post="Le presentamos {product}. Una creación para {audience}, con esmero en cada detalle.",
        ),
        "playful": Voice(
            headlines=("¡Psst! ¿Ya has visto {product}?", "¡Tres hurras por {product}!"),
            lede=(
                "Aquí llega algo para {audience}: "
                "una cucharada de diversión, una pizca de ingenio y mil razones para sonreír."
            ),
            offer_title="Mira lo que hemos encontrado",
            call_to_action="A ver, a ver",
            subject_a="¡Psst! ¿Ya has visto {product}?",
            subject_b="Mira: {offer}",
            greeting="¡Hola, hola!",
            opening="¿A que no adivinas qué hemos tramado para {audience}? ¡Tres hurras por {product}!",
            closing="¡Hasta ahora mismo!",
            post="¡Psst! ¿Ya has visto {product}? Mil razones para sonreír, para {audience}.",
        ),
        "plain": Voice(
            headlines=("Ya disponible: {product}", "Nuevo: {product}"),
            lede="Para {audience}. Esta página muestra lo que hay y cómo conseguirlo.",
            offer_title="La oferta",
            call_to_action="Ver la oferta",
            subject_a="Ya disponible: {product}",
            subject_b="Oferta: {offer}",
            greeting="Buenos días:",
            opening="Ya disponible para {audience}: {product}.",
            closing="Un saludo cordial",
            post="Ya disponible: {product}. Para {audience}.",
        ),
    },
)

LANGUAGES = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH, "es": SPANISH}
