"""Which addresses and URLs webhooks may lead to, and when what has failed comes again."""

from __future__ import annotations

import pytest
from runengine_server.commands.webhooks import check_url
from runengine_server.domain.errors import InvalidArgument
from runengine_server.domain.webhook import MAX_ATTEMPTS, UrlRules, is_public, retry_seconds

PRIVATE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.0.2.1",
    "192.168.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "fc00::1", "fe80::1", "fe80::1%eth0", "ff02::1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "fec0::1", "4000::1",
]  # fmt: skip
HTTPS = UrlRules()


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_a_network_of_ones_own_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example.com", "http://hooks.example.com", "ftp://hooks.example.com", "https://", "https:///x",
        "https://user:secret@hooks.example.com", "https://hooks.example.com#a", "https://hooks.example.com/ä",
        "https://hooks.example.com/a b", "https://hooks.example.com:port", "https://127.0.0.1", "https://[::1]:8443",
        "https://localhost", f"https://hooks.example.com/{'x' * 2000}", "https://hooks.example.com\\@127.0.0.1",
        "https://xn--", "https://hooks.example.com:0", "https://hooks.example.com:65536",
    ],
)  # fmt: skip
def test_a_url_that_nothing_may_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        check_url(url, HTTPS)


@pytest.mark.parametrize(
    ("url", "rules"),
    [
        ("https://hooks.example.com", HTTPS),
        ("https://hooks.example.com:8443/a?b=c", HTTPS),
        ("http://hooks.example.com", UrlRules(allows_http=True)),
        ("https://127.0.0.1", UrlRules(allows_private=True)),
    ],
)
def test_a_url_that_is_allowed_is_taken(url: str, rules: UrlRules) -> None:
    check_url(url, rules)


def test_attempts_come_within_two_days_at_growing_pauses() -> None:
    pauses = [retry_seconds(attempts) for attempts in range(1, MAX_ATTEMPTS + 1)]
    assert pauses == [5, 20, 80, 320, 1280, 5120, 20480, 43200, 43200, 43200, None]
    assert sum(filter(None, pauses)) * 1.2 < 3 * 24 * 3600
