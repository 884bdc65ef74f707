"""Which addresses a crawl or a source may connect to."""

import pytest

from modelmill.tasks.ingest.addresses import Reach, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "240.0.0.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "ff02::1",
        "192.0.0.192", "168.63.129.16", "100.100.100.200", "fd00:ec2::254",  # metadata of clouds
        "192.88.99.1", "fec0::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1", "4000::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::7f00:1",
        "::127.0.0.1", "::8.8.8.8", "64:ff9b:1::808:808", "64:ff9b:1:fffe::7f00:1", "::ffff:0:127.0.0.1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:0:5ef5:79fb::1",  # Teredo
        "2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:10.0.0.1",  # ISATAP
    ],
)  # fmt: skip
def test_refused(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_allowed(address):
    assert is_public(address)


def test_a_host_named_with_its_port_is_allowed_on_that_port_only():
    reach = Reach.of(["Intranet.example."], [("127.0.0.1", 8080), ("files.test", 80), ("[::1]", 9000)])
    assert reach.allows("intranet.example", 22) and reach.allows("127.0.0.1", 8080) and reach.allows("::1", 9000)
    assert reach.allows("files.test", 443)  # a server that moves to https
    assert not reach.allows("127.0.0.1", 6379) and not reach.allows("files.test", 8080)
