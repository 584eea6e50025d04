"""URLs that captions may be read from: one form, beginnings compared part by part, addresses told apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablerep.captions.patterns import expand, is_pattern, matcher
from stablerep.captions.remote.addresses import check_address
from stablerep.captions.remote.urls import AllowedUrls, parse_url
from stablerep.errors import InvalidInput

ALLOWED = AllowedUrls(
    ["https://data.example/captions", "http://files.example:8080", "s3://bucket/prefix",
     "hf://datasets/owner/name", "https://[2001:DB8::1]/a/"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("https://data.example/captions/a.tsv", "https://data.example/captions/a.tsv"),
        ("HTTPS://Data.Example:443/captions/a.tsv", "https://data.example/captions/a.tsv"),
        (
            "https://data.example/%63aptions/%61.tsv?x=1&y=%2F",
            "https://data.example/captions/a.tsv?x=1&y=%2F",
        ),
        ("https://data.example/captions", "https://data.example/captions"),
        ("https://data.example/captions/é.txt", "https://data.example/captions/%C3%A9.txt"),
        ("https://data.example/captions/%c3%a9.txt", "https://data.example/captions/%C3%A9.txt"),
        ("http://files.example:8080", "http://files.example:8080/"),
        ("http://files.example:8080?a", "http://files.example:8080/?a"),
        ("s3://bucket/prefix/a b.txt", None),
        ("s3://bucket/prefix/a.txt", "s3://bucket/prefix/a.txt"),
        ("hf://datasets/owner/name/data/a.parquet", "hf://datasets/owner/name/data/a.parquet"),
        ("hf://datasets/owner/name@v1.0/a.tsv", "hf://datasets/owner/name@v1.0/a.tsv"),
        ("https://[2001:db8:0:0::1]:443/a/b", "https://[2001:db8::1]/a/b"),
    ],
)
def test_a_url_is_brought_into_one_form(written: str, form: str | None) -> None:
    if form is None:
        with pytest.raises(InvalidInput):
            ALLOWED.check(written)
    else:
        assert str(ALLOWED.check(written)) == form
        assert str(ALLOWED.check(form)) == form


OUTSIDE = [
    "https://data.example/captionsX/a.tsv", "https://data.example/Captions/a.tsv", "https://data.example/",
    "http://data.example/captions/a.tsv", "https://data.example:8443/captions/a.tsv",
    "https://data.example.evil/captions/a", "https://evil.example/captions/a", "https://xdata.example/captions/a",
    "http://files.example/a", "s3://bucket/prefixes/a", "s3://bucket/a", "s3://bucket2/prefix/a",
    "hf://datasets/owner/name2/a", "hf://datasets/owner2/name/a", "https://[2001:db8::2]/a/b",
    "http://169.254.169.254/latest/meta-data/", "http://localhost/", "http://127.0.0.1:8080/",
]  # fmt: skip
MISLEADING = [
    "https://data.example@evil.example/captions/a", "https://user:pw@data.example/captions/a",
    "https://evil.example\\@data.example/captions/a", "https://data.example\\.evil.example/captions/a",
    "https://data.example/captions/../secret", "https://data.example/captions/%2e%2e/secret",
    "https://data.example/captions/%252e%252e/secret", "https://data.example/captions/%25252e%25252E/secret",
    "https://data.example/captions/..%2fsecret", "https://data.example/captions/..;/secret",
    "https://data.example/captions/..;a=b/secret", "https://data.example/captions/./a",
    "https://data.example/captions/%5c..%5csecret", "https://data.example/captions/a%00.txt",
    "https://data.example/captions/a%0d%0aHost:%20evil", "https://data.example/captions/a\r\nHost: evil",
    "https://data.example/captions/a b", "https://data.example/captions/a\tb", "https://data.example#@evil/captions",
    "https://data.example/captions/%zz", "https://data.example/captions/%", "https://data.example:/captions/:a:b@",
    "https://data.example:99999/captions", "https://data.example:0/captions", "https://data.example:80:80/captions",
    "https:///captions/a", "https:/data.example/captions/a", "https:data.example", "//data.example/captions",
    "https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/",
    "https://127.0.0.1.1/", "https://1.2.3.04/", "https://[::1/", "https://[fe80::1%25eth0]/", "https://[v1.x]/",
    "https://ｄata.example/captions", "https://data。example/captions", "https://data.example./captions/a",
    "https://data..example/captions", "https://-data.example/captions", "https://data.example\u200b/captions",
    "s3://bucket/prefix/../other", "s3://bucket/prefix//a", "s3://Bucket/prefix/a", "s3://user@bucket/prefix/a",
    "s3://b/prefix/a", "hf://datasets/owner/name/../other/a", "hf://owner/name/a", "hf://spaces/owner/name/a",
    "hf://datasets/owner/name/a::file:///etc/passwd", "hf://datasets/owner/name@v1/x@y",
    "file:///etc/passwd", "/etc/passwd", "ftp://data.example/captions/a", "gopher://data.example/",
    "simplecache::https://data.example/captions/a", "zip://a::https://data.example/captions/a.zip",
    "reference://a", "github://a:b@/c", "filecache::s3://bucket/prefix/a", "data:,a", "memory://a", "local://etc",
    "https://data.example/captions/" + "a" * 2000, "",
]  # fmt: skip


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_url_outside_the_allowed_beginnings_is_refused(url: str) -> None:
    parse_url(url)
    with pytest.raises(InvalidInput, match=r"gateway\.source_urls"):
        ALLOWED.check(url)


@pytest.mark.parametrize("url", MISLEADING)
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(url)
    assert caught.value.field == "uri"
    with pytest.raises(InvalidInput):
        ALLOWED.check(url)


@given(
    st.text(alphabet="./\\%2eE5cCfF@:;#?[]~ \t\r\nab0\u200b\u3002\uff0e", max_size=30),
    st.sampled_from(
        ["https://data.example", "https://data.example/captions", "https://data.example/captions/"]
    ),
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_what_is_allowed_stays_at_its_host_and_below_its_folder(tail: str, start: str) -> None:
    try:
        url = ALLOWED.check(start + tail)
    except InvalidInput:
        return
    assert url.host == "data.example"
    assert f"{url.path}/".startswith("/captions/")
    assert ".." not in url.path.split("/")
    assert str(ALLOWED.check(str(url))) == str(url)
    assert str(url).isascii()
    assert str(url).isprintable()


def test_nothing_is_allowed_until_it_is_said() -> None:
    with pytest.raises(InvalidInput):
        AllowedUrls().check("https://data.example/captions/a.tsv")


@pytest.mark.parametrize(
    "beginning", ["https://", "data.example", "file:///data", "https://a.example/?x", "*", ""]
)
def test_a_beginning_that_is_no_url_is_refused(beginning: str) -> None:
    with pytest.raises(InvalidInput):
        AllowedUrls([beginning])


PUBLIC = ["8.8.8.8", "1.1.1.1", "203.0.114.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", 
    "198.18.0.1",     "192.0.2.1", "240.0.0.1", "::1", "fd00::1", "fec0::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.1",     "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.250", "fe80::1",
    "fe80::1%eth0", "ff02::1", "::", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::",
    "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "::169.254.169.254",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_connected_to(address: str) -> None:
    check_address(address, private_networks=False)
    check_address(address, private_networks=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_needs_the_setting(address: str) -> None:
    with pytest.raises(InvalidInput, match="private"):
        check_address(address, private_networks=False)
    check_address(address, private_networks=True)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_multicast_are_never_connected_to(address: str) -> None:
    for private_networks in (False, True):
        with pytest.raises(InvalidInput):
            check_address(address, private_networks=private_networks)


def test_a_range_in_braces_stands_for_numbers_of_one_width() -> None:
    assert expand("a/{008..011}.tar") == ["a/008.tar", "a/009.tar", "a/010.tar", "a/011.tar"]
    assert expand("{1..2}/{8..10}.tar") == [
        "1/8.tar",
        "1/9.tar",
        "1/10.tar",
        "2/8.tar",
        "2/9.tar",
        "2/10.tar",
    ]
    assert expand("plain {a} {1,2}.txt") == ["plain {a} {1,2}.txt"]
    assert [is_pattern(name) for name in ("a{0..1}", "a*", "a{0}", "a")] == [True, True, False, False]


@pytest.mark.parametrize("name", ["{2..1}", "{0..999999999}", "{0..999}{0..999}"])
def test_a_range_that_is_empty_or_too_long_is_refused_at_once(name: str) -> None:
    with pytest.raises(InvalidInput):
        expand(name)


def test_a_star_stands_for_anything_within_one_part() -> None:
    beginning, whole = matcher("a.b/0*x*.tar")
    assert beginning == "a.b/0"
    names = ["a.b/0x.tar", "a.b/01x2.tar", "a.b/0x/y.tar", "aXb/0x.tar", "a.b/0x.tar.gz", "a.b/1x.tar"]
    assert [bool(whole.fullmatch(name)) for name in names] == [True, True, False, False, False, False]
    with pytest.raises(InvalidInput):
        matcher("a/*/b.tar")
