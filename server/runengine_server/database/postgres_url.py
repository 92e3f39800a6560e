"""What a database URL says, in libpq's spelling: PostgreSQL's documentation, "Connection URIs"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

# Scheme, what stands between the slashes, and path and query.
_PARTS = re.compile(r"(?:([^:/?#]*)://([^/?#]*))?(.*)", re.DOTALL)

_SPELLING = "must be postgresql://user:password@host/database"

# What the driver reads from a URL as libpq does.
_DRIVERS = frozenset(
    {
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslpassword",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
        "service",
    }
)

# What we read.
_OURS = frozenset(
    {
        "host",
        "hostaddr",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "servicefile",
        "options",
        "application_name",
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "target_session_attrs",
    }
)

# What libpq knows (PostgreSQL 18), and nothing here acts on: with their defaults, and in most of their
# values, they change nothing for a client such as this.
_IGNORED = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "scram_client_key",
        "scram_server_key",
        "sslcertmode",
        "sslcompression",
        "sslcrldir",
        "sslkeylogfile",
        "sslsni",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
    }
)

# Of those, what would be less safe than it was asked to be.
_DEMANDS = {
    "gssencmode": ("require",),
    "requiressl": ("1",),
    "sslcertmode": ("require",),
    "requirepeer": None,
    "require_auth": None,
    "sslcrldir": None,
}

# Those that a process which writes has a use for.
_WRITABLE = ("any", "read-write", "primary")

# How long a host may take to let us in. With several, one that is frozen must not use up a call's deadline.
_CONNECT_SECONDS = 5.0
_CONNECT_SECONDS_OF_SEVERAL = 3.0

# A network that forgets a connection without a word is noticed in less than ten seconds: by keepalives
# where nothing is under way, else because nothing that was sent is acknowledged.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 4, "keepalives_interval": 1, "keepalives_count": 4}
_TCP_USER_TIMEOUT_MS = 8000


@dataclass(frozen=True)
class PostgresUrl:
    """`hosts` are (host, port), in the order to try them, a path for a socket's directory; None leaves
    that to the driver. `driver_options` are for the driver, as they stand; `ignored` names what has no
    effect here. `may_be_read_only`: whether a host will do that does not take writes.
    """

    hosts: tuple[tuple[str | None, int | None], ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    passfile: str | None
    servicefile: str | None
    application_name: str | None
    server_options: str | None
    connect_seconds: float
    keepalives: Mapping[str, int]
    tcp_user_timeout_ms: int
    may_be_read_only: bool
    driver_options: Mapping[str, str] = field(repr=False)
    ignored: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it points to, for messages: no user, no password."""
        return ",".join(place_of(*each) for each in self.hosts)


def place_of(host: str | None, port: int | None) -> str:
    """HOST:PORT, as far as it is known."""
    name = host or "localhost"
    if ":" in name:
        name = f"[{name}]"
    return f"{name}:{port}" if port else name


def parse_postgres_url(url: str) -> PostgresUrl:
    """What the URL says. Raises ValueError with what is wrong, in words that quote nothing of it but the
    names of options, for it has a password.
    """
    # Not urlsplit's: with the fixes of 2025 it refuses brackets in a list of hosts (Debian's Python 3.11.2).
    scheme, netloc, rest = _PARTS.fullmatch(url.strip()).groups()  # type: ignore[union-attr]
    try:
        parts = urlsplit(rest)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(_SPELLING) from None
    if scheme not in ("postgres", "postgresql"):
        raise ValueError(_SPELLING)
    options = dict(pairs)
    login, _, places = netloc.rpartition("@")
    user, _, password = login.partition(":")
    # First, because what is taken for an option may be the rest of a password with a "?" in it.
    hosts = _hosts(places, options)
    _check_options(options)
    target = options.get("target_session_attrs", "read-write" if len(hosts) > 1 else "any")
    if target not in _WRITABLE:
        raise ValueError(f"target_session_attrs must be one of {', '.join(_WRITABLE)}: runs are written")
    return PostgresUrl(
        hosts=hosts,
        user=options.get("user") or unquote(user) or None,
        password=options.get("password") or unquote(password) or None,
        database=options.get("dbname") or options.get("database") or unquote(parts.path[1:]) or None,
        passfile=options.get("passfile"),
        servicefile=options.get("servicefile"),
        application_name=options.get("application_name"),
        server_options=options.get("options"),
        connect_seconds=_connect_seconds(options, len(hosts)),
        keepalives={name: _number(options, name, default) for name, default in _KEEPALIVES.items()},
        tcp_user_timeout_ms=_number(options, "tcp_user_timeout", _TCP_USER_TIMEOUT_MS),
        may_be_read_only=target == "any",
        driver_options={name: value for name, value in options.items() if name in _DRIVERS},
        ignored=tuple(sorted(_IGNORED & options.keys())),
    )


def _check_options(options: Mapping[str, str]) -> None:
    unknown = sorted(options.keys() - _DRIVERS - _OURS - _IGNORED)
    if unknown:
        raise ValueError(f"has an option that PostgreSQL does not know: {', '.join(unknown)}")
    for name, values in _DEMANDS.items():
        if name in options and (values is None or options[name] in values):
            raise ValueError(f"asks for {name}, which cannot be had here")


def _connect_seconds(options: Mapping[str, str], hosts: int) -> float:
    # As in libpq, zero and less is without a limit of one's own.
    given = _number(options, "connect_timeout", 0)
    return given if given > 0 else _CONNECT_SECONDS if hosts == 1 else _CONNECT_SECONDS_OF_SEVERAL


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(options.get(name, default))
    except ValueError:
        raise ValueError(f"has a {name} that is no whole number") from None


def _hosts(places: str, options: Mapping[str, str]) -> tuple[tuple[str | None, int | None], ...]:
    found = [_host_and_port(each) for each in places.split(",")]
    if named := options.get("host") or options.get("hostaddr"):
        found = [(each or None, None) for each in named.split(",")]
    if ports := options.get("port"):
        numbers = [_port(each) for each in ports.split(",")]
        if len(numbers) not in (1, len(found)):
            raise ValueError("has another number of ports than of hosts")
        found = [
            (host, number)
            for (host, _), number in zip(found, numbers * (len(found) // len(numbers)), strict=True)
        ]
    return tuple(found)


def _host_and_port(place: str) -> tuple[str | None, int | None]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, ""
    if host.startswith("[") != host.endswith("]"):
        raise ValueError(_SPELLING)
    return unquote(host).strip("[]") or None, _port(port)


def _port(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not text.isascii() or not 0 < int(text) < 65536:
        raise ValueError("has a port that is no number from 1 to 65535")
    return int(text)
