"""Which address counts as the client."""

from __future__ import annotations

import pytest

from attr_actors.errors import BadSettings
from serve_app.clients import client_address, parse_networks


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "client"),
    [
        ("198.51.100.7", [], "", "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.1"], "", "198.51.100.7"),  # Nobody may speak for others.
        ("127.0.0.1", [], "", "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.7"], "", "198.51.100.7"),  # The ingress on this host names its peer.
        ("127.0.0.1", ["203.0.113.1", "198.51.100.7"], "", "198.51.100.7"),  # What a client wrote itself comes before.
        ("127.0.0.1", ["203.0.113.1, 127.0.0.1"], "", "127.0.0.1"),  # A local client cannot choose its name.
        ("127.0.0.1", ["203.0.113.1, 10.0.0.9", "10.0.0.2"], "10.0.0.0/24", "203.0.113.1"),
        ("10.0.0.2", ["evil, 203.0.113.1"], "10.0.0.0/24", "203.0.113.1"),
        ("10.0.0.2", ["not an address"], "10.0.0.0/24", "unknown"),
        ("127.0.0.1", ["198.51.100.7:4711"], "", "198.51.100.7"),
        ("127.0.0.1", ["[2001:db8:1:2:3:4:5:6]:4711"], "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", [], "", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", [], "", "198.51.100.7"),
        ("", [], "", "unknown"),
    ],
)
def test_the_client_is_the_last_hop_that_no_trusted_proxy_spoke_for(peer: str, forwarded: list[str], trusted: str, client: str) -> None:
    assert client_address(peer, forwarded, parse_networks(trusted)) == client


def test_a_wrong_network_is_named() -> None:
    with pytest.raises(BadSettings, match=r"TRUSTED_PROXIES.*10\.0\.0"):
        parse_networks("10.0.0.0/33")
