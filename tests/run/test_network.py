"""By which interface other machines reach this one."""

from __future__ import annotations

import psutil

from launcher.run.network import address_towards, interface_of, interface_towards


def test_the_loopback_leads_to_the_loopback() -> None:
    address = address_towards("127.0.0.1")
    assert address == "127.0.0.1"
    name = interface_of(address)
    assert name is not None
    assert any(found.address == address for found in psutil.net_if_addrs()[name])


def test_an_address_of_nobody_has_no_interface() -> None:
    assert interface_of("192.0.2.77") is None


def test_a_name_for_the_loopback_leads_out_or_nowhere() -> None:
    found = interface_towards("localhost")
    assert found is None or all(one.address != "127.0.0.1" for one in psutil.net_if_addrs()[found])


def test_a_machine_that_nobody_knows_leads_out_or_nowhere() -> None:
    assert interface_towards("no-such-host.invalid") == interface_towards("localhost")
