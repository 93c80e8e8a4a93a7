import threading
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from dripping import LONGEST, dripping
from sas_endpoint import SasEndpoint
from stac_server import serving
from urllib3 import Retry

from cloudjob.catalog import signing
from cloudjob.catalog.signing import forget, given, open_href, remember, unsigned
from cloudjob.errors import OutageError, OutsideError, PassingError, SceneError, redact

PC = "planetary-computer"
BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/T/CH/B04.tif"
OTHER = "https://sentinel2l2a01.blob.core.windows.net/other/B04.tif"


@pytest.fixture
def sas(monkeypatch):
    """(requests so far, faults to come, [life of the tokens]) of a running endpoint."""
    asked, faults, life = [], deque(), [timedelta(minutes=45)]
    monkeypatch.setattr(signing, "_tokens", {})
    monkeypatch.setattr(signing, "_RETRY", Retry(3, backoff_factor=0.01, status_forcelist=(429, 500, 503)))
    with serving(SasEndpoint, asked=asked, faults=faults, life=life, lock=threading.Lock()) as port:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"http://127.0.0.1:{port}/token")
        yield asked, faults, life


def test_one_token_serves_a_container_until_it_is_forgotten(sas):
    asked, _, _ = sas
    assert open_href(PC, BLOB) == f"{BLOB}?st=2024&se=2025&sp=rl&sig=SECRET1"
    assert open_href(PC, BLOB.replace("B04", "B03")).endswith("B03.tif?st=2024&se=2025&sp=rl&sig=SECRET1")
    assert open_href(PC, OTHER).endswith("SECRET2")
    forget(PC, BLOB)
    assert open_href(PC, BLOB).endswith("SECRET3")
    assert open_href(PC, OTHER).endswith("SECRET2")
    paths = ["/token/sentinel2l2a01/sentinel2-l2", "/token/sentinel2l2a01/other", "/token/sentinel2l2a01/sentinel2-l2"]
    assert asked == [(path, None) for path in paths]


def test_an_address_that_is_signed_is_opened_as_it_is(sas):
    assert open_href(PC, f"{OTHER}?sig=mine") == f"{OTHER}?sig=mine"
    assert sas[0] == []


def test_the_planetary_computers_accounts_are_signed_in_any_catalog(sas):
    """Also in a saved file, whose own signatures have expired; other accounts of Azure are not asked for."""
    assert open_href("", BLOB).endswith("SECRET1")
    assert remember(("c", "A", "red"), f"{BLOB}?sig=EXPIRED") == BLOB
    assert given(("c", "A", "red"), BLOB) == BLOB
    mine = "https://mine.blob.core.windows.net/c/B04.tif"
    assert open_href("", mine) == mine
    assert len(sas[0]) == 1


def test_a_users_own_signature_is_kept_apart(monkeypatch):
    monkeypatch.setattr(signing, "_given", {})
    signed = "https://h/f.tif?se=2030&sig=abc#part"
    assert remember(("c", "A", "red"), signed) == "https://h/f.tif"
    assert given(("c", "A", "red"), "https://h/f.tif") == signed
    assert given(("c", "A", "red"), "https://h/other.tif") == "https://h/other.tif"
    assert given(("c", "B", "red"), "https://h/f.tif") == "https://h/f.tif"
    assert remember(("c", "A", "red"), "https://h/f.tif") == "https://h/f.tif"  # Read again: nothing is forgotten
    assert given(("c", "A", "red"), "https://h/f.tif") == signed


def test_public_buckets_are_read_by_https_without_keys():
    assert open_href("", "s3://deafrica-sentinel-2/a/B04.tif") == (
        "https://deafrica-sentinel-2.s3.af-south-1.amazonaws.com/a/B04.tif"
    )
    assert open_href("", "s3://dea-public-data/b.tif").startswith("https://dea-public-data.s3.ap-southeast-2.")
    assert open_href("", "s3://eodata/c.jp2") == "s3://eodata/c.jp2"


def test_a_token_about_to_expire_is_renewed(sas):
    asked, _, life = sas
    life[0] = timedelta(minutes=10)
    open_href(PC, BLOB)
    life[0] = timedelta(minutes=20)
    assert open_href(PC, BLOB).endswith("SECRET2")
    assert open_href(PC, BLOB).endswith("SECRET2")
    assert len(asked) == 2


def test_bands_opened_at_once_share_one_request(sas):
    asked, _, _ = sas
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: open_href(PC, BLOB), range(8)))) == 1
    assert len(asked) == 1


def test_a_subscription_key_goes_into_the_header_only(sas, monkeypatch):
    asked, _, _ = sas
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "KEY")
    assert "KEY" not in open_href(PC, BLOB)
    assert asked[0] == ("/token/sentinel2l2a01/sentinel2-l2", "KEY")


@pytest.mark.parametrize(
    "href",
    [
        "https://earth-search.example/B04.tif",
        "/data/B04.tif",
        "https://ai4edatasetspublicassets.blob.core.windows.net/assets/thumb.png",
        "https://blob.core.windows.net.evil.example/c/B04.tif",
    ],
)
def test_what_needs_no_signature_gets_none(sas, href):
    asked, _, _ = sas
    assert open_href(PC, href) == href
    assert open_href("", href) == href
    forget(PC, href)
    assert asked == []


def test_an_unknown_way_of_signing_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="'s3'"):
        open_href("s3", BLOB)


@pytest.mark.parametrize("fault", [429, 500, 503, "hang up"])
def test_passing_faults_are_ridden_out_and_lasting_ones_named(sas, fault):
    asked, faults, _ = sas
    faults.extend([fault] * 2)
    assert open_href(PC, BLOB).endswith("SECRET3")
    faults.extend([fault] * 4)
    with pytest.raises(PassingError, match=r"cannot sign: http.*other does not answer") as caught:
        open_href(PC, OTHER)
    assert "SECRET" not in str(caught.value)
    assert len(asked) == 7


def test_a_silent_endpoint_does_not_hang_a_worker(sas, monkeypatch):
    class Silent(BaseHTTPRequestHandler):
        def handle(self):
            released.wait(10)

    released = threading.Event()
    monkeypatch.setattr(signing, "_TIMEOUT_S", (0.2, 0.2))
    with serving(Silent) as port:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"http://127.0.0.1:{port}/token")
        began = time.monotonic()
        with pytest.raises(PassingError):
            open_href(PC, BLOB)
        assert time.monotonic() - began < 5
        released.set()


@pytest.mark.parametrize(
    ("scheme", "name", "value", "says"),
    [
        ("https", "REQUESTS_CA_BUNDLE", "nowhere.pem", r": .* TLS CA certificate bundle, invalid path: nowhere\.pem"),
        ("http", "PC_SDK_SUBSCRIPTION_KEY", "€", r" \(UnicodeEncodeError\)"),
    ],
)
def test_a_setting_of_this_machine_that_cannot_be_used_is_named_and_costs_the_scene_only(
    scheme, name, value, says, monkeypatch
):
    monkeypatch.setattr(signing, "_tokens", {})
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{scheme}://127.0.0.1:1/token")
    monkeypatch.setenv(name, value)
    with pytest.raises(OutsideError, match=f"cannot sign: .* cannot be asked{says}") as caught:
        open_href(PC, BLOB)
    assert "€" not in str(caught.value)


def test_a_head_that_drips_does_not_hang_a_worker(monkeypatch):
    monkeypatch.setattr(signing, "MAX_SECONDS", 1)
    monkeypatch.setattr(signing, "_tokens", {})
    began = time.monotonic()
    with dripping() as address:
        monkeypatch.setenv("PC_SDK_SAS_URL", address)
        with pytest.raises(OutageError, match="does not answer"):
            open_href(PC, BLOB)
    assert time.monotonic() - began < LONGEST


@pytest.mark.parametrize(("fault", "says"), [(404, "HTTP 404"), (403, "HTTP 403"), ("no token", "is not a token")])
def test_a_refusal_costs_the_scene(sas, fault, says):
    _, faults, _ = sas
    faults.append(fault)
    with pytest.raises(SceneError, match=says) as caught:
        open_href(PC, BLOB)
    assert not isinstance(caught.value, PassingError)
    assert "SECRET" not in str(caught.value)


def test_the_same_as_microsofts_client(sas, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdk = pytest.importorskip("planetary_computer", reason="planetary-computer is not installed")
        from planetary_computer.settings import Settings
    Settings.get.cache_clear()
    for href in (BLOB, OTHER, "https://ai4edatasetspublicassets.blob.core.windows.net/a/b", "https://host/B04.tif"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = sdk.sign(href)
        ours = open_href(PC, href)
        assert unsigned(ours) == unsigned(theirs) == href
        assert ("sig=" in ours) == ("sig=" in theirs)
        assert ours.partition("sig=")[0] == theirs.partition("sig=")[0]
    asked = [path for path, _ in sas[0]]
    assert asked[0::2] == asked[1::2]
    Settings.get.cache_clear()


@pytest.mark.parametrize(
    ("href", "bare"),
    [
        ("https://h/f.tif", "https://h/f.tif"),
        ("https://h/f.tif?versionId=3", "https://h/f.tif"),
        ("https://h/f.tif?Authorization=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?q-sign-algorithm=sha1&q-signature=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?hdnts=exp=1~hmac=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?auth=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?code=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?jwt=SECRET", "https://h/f.tif"),
        ("https://h/f.tif#SECRET", "https://h/f.tif"),
        ("https://h/f.tif?st=1&se=2&sig=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?SIG=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?X-Goog-Signature=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?AWSAccessKeyId=SECRET&Expires=1&Signature=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?Policy=SECRET&Signature=SECRET&Key-Pair-Id=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?token=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?access_token=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?subscription-key=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?api_key=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?apikey=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?client_secret=SECRET", "https://h/f.tif"),
        ("https://h/f.tif?sig", "https://h/f.tif"),
        ("https://me:SECRET@h/f.tif", "https://h/f.tif"),
        ("/vsicurl/https://me:SECRET@h/f.tif?sig=SECRET", "/vsicurl/https://h/f.tif"),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fh%2Ff.tif%3Fsig%3DSECRET", "/vsicurl"),
        ("/vsicurl_streaming?url=https%3A%2F%2Fme%3ASECRET%40h%2Ff.tif", "/vsicurl_streaming"),
        ("/VSICURL?url=https%3A%2F%2Fh%2Ff.tif%3Fsig%3DSECRET", "/VSICURL"),
        ("/data/GTIFF_DIR:1:/vsicurl?url=https%3A%2F%2Fh%2Ff.tif%3Fsig%3DSECRET", "/data/GTIFF_DIR:1:/vsicurl"),
        ("/vsis3/bucket/f.tif?X-Amz-Signature=SECRET", "/vsis3/bucket/f.tif"),
        ("/data/odd?name@home.tif", "/data/odd?name@home.tif"),
        ("s3://bucket/f@2x.tif", "s3://bucket/f@2x.tif"),
    ],
)
def test_unsigned(href, bare):
    assert unsigned(href) == bare
    assert unsigned(bare) == bare
    assert "SECRET" not in redact(href)
