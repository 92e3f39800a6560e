"""The phrases in Spanish."""

from runengine_samples.campaign_bundle.phrases.language import Language, Voice

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
