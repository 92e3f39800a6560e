"""Parses a database URL as libpq does: PostgreSQL's documentation, "Connection URIs"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

# Scheme, authority, and path with query.
_PARTS = re.compile(r"(?:([^:/?#]*)://([^/?#]*))?(.*)", re.DOTALL)

_SPELLING = "must be postgresql://user:password@host/database"

# The options that asyncpg reads from a URL as libpq does.
_DRIVER_OPTIONS = frozenset(
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

# The options that this module reads.
_OWN_OPTIONS = frozenset(
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

# The other options of libpq (PostgreSQL 18). They are ignored: their defaults, and most of their other
# values, make no difference here.
_IGNORED_OPTIONS = frozenset(
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

# Ignored options with the values that are refused, as the connection would be less safe than asked for. None
# stands for every value.
_REFUSED_VALUES = {
    "gssencmode": ("require",),
    "requiressl": ("1",),
    "sslcertmode": ("require",),
    "requirepeer": None,
    "require_auth": None,
    "sslcrldir": None,
}

# The values of target_session_attrs that do not exclude a host that takes writes.
_WRITABLE = ("any", "read-write", "primary")

# How long connecting to a host may take. With several hosts, a frozen one must not use up a call's deadline.
_CONNECT_SECONDS = 5.0
_CONNECT_SECONDS_OF_SEVERAL = 3.0

# A connection that the network has dropped without a reset is noticed in less than ten seconds: by keepalives
# while it is idle, and by missing acknowledgements while data is being sent.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 4, "keepalives_interval": 1, "keepalives_count": 4}
_TCP_USER_TIMEOUT_MS = 8000


@dataclass(frozen=True)
class PostgresUrl:
    """A parsed URL. `hosts` are (host, port) in the order in which to try them; a host may be the directory
    of a Unix socket, and None leaves the part to the driver. `driver_options` are passed to the driver
    unchanged. `ignored` names the options without effect. `may_be_read_only`: whether a host may refuse
    writes.
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
        """The hosts and ports, for messages, without user and password."""
        return ",".join(place_of(*each) for each in self.hosts)


def place_of(host: str | None, port: int | None) -> str:
    """HOST:PORT, or HOST where the port is not known."""
    name = host or "localhost"
    if ":" in name:
        name = f"[{name}]"
    return f"{name}:{port}" if port else name


def parse_postgres_url(url: str) -> PostgresUrl:
    """Parses the URL. Raises ValueError with a message that quotes nothing of the URL but names of options,
    since the URL may contain a password.
    """
    # Not by urlsplit: since its fixes of 2025 (Debian's Python 3.11.2 has them) it refuses brackets in a list
    # of hosts.
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
    # Before the options are checked: what looks like one may be the rest of a password with a "?" in it.
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
        driver_options={name: value for name, value in options.items() if name in _DRIVER_OPTIONS},
        ignored=tuple(sorted(_IGNORED_OPTIONS & options.keys())),
    )


def _check_options(options: Mapping[str, str]) -> None:
    unknown = sorted(options.keys() - _DRIVER_OPTIONS - _OWN_OPTIONS - _IGNORED_OPTIONS)
    if unknown:
        raise ValueError(f"has an option that PostgreSQL does not know: {', '.join(unknown)}")
    for name, values in _REFUSED_VALUES.items():
        if name in options and (values is None or options[name] in values):
            raise ValueError(f"asks for {name}, which cannot be had here")


def _connect_seconds(options: Mapping[str, str], hosts: int) -> float:
    # As in libpq, zero and negative numbers mean the default.
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
