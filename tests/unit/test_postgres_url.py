"""What a database URL says, and what is said of one that is wrong."""

from __future__ import annotations

import pytest
from runengine_server.database.connecting import Connector, NoUsableHost
from runengine_server.database.driver_errors import error_fields
from runengine_server.database.postgres_url import parse_postgres_url
from runengine_server.processes.open_database import cannot_connect
from runengine_server.settings import SettingsError, read_settings

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u@h/d", (("h", None),)),
        ("postgres://h:5433", (("h", 5433),)),
        ("postgresql://h1:1,h2:2/d", (("h1", 1), ("h2", 2))),
        ("postgresql://h1,[::1]:2/d", (("h1", None), ("::1", 2))),
        ("postgresql:///d?host=/run/postgresql&port=1", (("/run/postgresql", 1),)),
        ("postgresql:///d?host=a,b&port=1,2", (("a", 1), ("b", 2))),
        ("postgresql:///d?host=a,b&port=1", (("a", 1), ("b", 1))),
        ("postgresql://%2Frun%2Fpostgresql/d", (("/run/postgresql", None),)),
        ("postgresql://u@/d", ((None, None),)),
    ],
)
def test_hosts_are_read_in_each_spelling(url: str, hosts: object) -> None:
    assert parse_postgres_url(url).hosts == hosts


def test_a_password_may_have_any_character() -> None:
    url = parse_postgres_url("postgresql://u%40x:p%2F%3A%40@w@h/d%20e")
    assert (url.user, url.password, url.database) == ("u@x", "p/:@@w", "d e")


def test_options_of_libpq_are_honoured_or_named() -> None:
    url = parse_postgres_url(
        "postgresql://h/d?connect_timeout=2&keepalives_idle=9&tcp_user_timeout=700&application_name=a"
        "&options=-c%20geqo%3Doff&sslmode=require&channel_binding=require&gssencmode=prefer"
        "&load_balance_hosts=random&target_session_attrs=read-write"
    )
    assert (url.connect_seconds, url.keepalives["keepalives_idle"], url.tcp_user_timeout_ms) == (2, 9, 700)
    assert (url.application_name, url.server_options) == ("a", "-c geqo=off")
    assert url.driver_options == {"sslmode": "require"}
    assert url.ignored == ("channel_binding", "gssencmode", "load_balance_hosts")
    assert not url.may_be_read_only


def test_of_several_hosts_one_has_to_take_writes() -> None:
    assert parse_postgres_url("postgresql://h/d").may_be_read_only
    assert not parse_postgres_url("postgresql://h,i/d").may_be_read_only
    assert parse_postgres_url("postgresql://h,i/d?target_session_attrs=any").may_be_read_only


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:hunter2@h/d", "must be postgresql://"),
        ("postgresql://u:hunter2@[::1/d", "must be postgresql://"),
        ("postgresql://u:hunter2@h/d?sslmode", "must be postgresql://"),
        ("postgresql://u:hunter2@h:70000/d", "port"),
        ("postgresql://u:hunter2/x@h/d", "port"),
        ("postgresql://u:hunter2?x=y@h/d", "port"),
        ("postgresql://u:hunter2@h1:1,h2:x/d", "port"),
        ("postgresql://u:hunter2@/d?host=a,b,c&port=1,2", "ports"),
        ("postgresql://u:hunter2@h/d?sslmod=require", "does not know: sslmod"),
        ("postgresql://u:hunter2@h/d?statement_timeout=1", "does not know: statement_timeout"),
        ("postgresql://u:hunter2@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgresql://u:hunter2@h/d?target_session_attrs=standby", "target_session_attrs"),
        ("postgresql://u:hunter2@h/d?gssencmode=require", "gssencmode"),
        ("postgresql://u:hunter2@h/d?requirepeer=postgres", "requirepeer"),
    ],
)
@pytest.mark.parametrize(
    "variable",
    ["RUNENGINE_DATABASE_URL", "RUNENGINE_OWNER_DATABASE_URL", "RUNENGINE_LISTEN_DATABASE_URL"],
)
def test_a_wrong_url_is_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str, says: str
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    said = str(refusal.value)
    assert said.startswith(f"{variable} ")
    assert says in said
    assert SECRET not in said
    assert "\n" not in said


def test_a_database_that_cannot_be_used_is_named_without_the_password() -> None:
    error = OSError(f"who is {SECRET}?\nNobody.")
    said = str(cannot_connect("RUNENGINE_DATABASE_URL", f"postgresql://u:{SECRET}@h1:1,h2:2/d", error))
    assert said == "RUNENGINE_DATABASE_URL: cannot use the database at h1:1,h2:2: who is ***?"


async def test_a_log_line_says_of_each_of_several_hosts_why_it_cannot_be_used() -> None:
    with pytest.raises(NoUsableHost) as refused:
        await Connector("postgresql://u:hunter2@127.0.0.1:1,127.0.0.1:2/d", "test").connect()
    fields = error_fields(refused.value)
    assert [each.split(": ")[0] for each in str(fields["why"]).split("; ")] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert "hunter2" not in str(fields)
