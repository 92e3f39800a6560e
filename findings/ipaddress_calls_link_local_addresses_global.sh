#!/bin/sh
# ipaddress: is_global is true of addresses that never leave a link, a host or a site.
#
# One would guess: is_global says whether an address is one that the Internet reaches; it is false where
#   is_link_local, is_site_local or is_multicast say the contrary.
# What happens: is_global is true of ff02::1 (all nodes of this link), of ff01::1 (of this host), of 224.0.0.251
#   (the link's mDNS) and of fec0::1, of which is_site_local is true as well. None of them is_private.
# Source: CPython, Lib/ipaddress.py: is_global is `not is_private`, and that looks into IANA's registries of
#   special-purpose addresses. Multicast has a registry of its own, and fec0::/10 was taken out of them in 2004.
# Why it matters: who sends only where is_global is true also sends to the neighbours on the link. What counts
#   for IPv6 is whether the address is in 2000::/3, from which all that the Internet has is assigned.
set -eu
python3 - <<'PYTHON'
import sys
from ipaddress import ip_address, ip_network

print("Python", sys.version.split()[0])
scopes = dict.fromkeys(("ff02::1", "ff01::1", "224.0.0.251"), "is_multicast") | {"fec0::1": "is_site_local"}
for text, scope in scopes.items():
    address = ip_address(text)
    found = {name: getattr(address, name) for name in ("is_global", "is_private", scope)}
    print(text, found)
    if list(found.values()) != [True, False, True]:
        sys.exit(1)
sys.exit(any(ip_address(text) in ip_network("2000::/3") for text in scopes if ":" in text))
PYTHON
echo "as described: addresses of a link, a host and a site are global"
