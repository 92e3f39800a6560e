"""The phrases in French."""

from runengine_samples.campaign_bundle.phrases.language import Language, Voice

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
