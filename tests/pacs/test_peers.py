"""Whom `send` takes for a peer, which logins it shows where, and what an answer's number means."""

from __future__ import annotations

from random import Random

import pytest
from bad_peers import web_peer
from hypothesis import given
from hypothesis import strategies as st

from medpanoptic.errors import BatchError
from medpanoptic.pacs.dimse import parse_peer
from medpanoptic.pacs.parcels import AGAIN, DELIVERED, REFUSED, Backoff, store_reply
from medpanoptic.pacs.web import OneHostSession, check_url, open_session


@pytest.mark.parametrize(
    "text", ["", "pacs", "pacs:104", "pacs:0/A", "pacs:99999/A", "pacs:104/" + "A" * 17, "a b:1/A"]
)
def test_peers_that_are_none(text):
    with pytest.raises(BatchError, match="PEER-ADDRESS"):
        parse_peer(text)


def test_peers():
    assert str(parse_peer("pacs.example:104/MAIN PACS")) == "dicom://pacs.example:104/MAIN PACS"
    assert parse_peer("[::1]:104/A").host == "::1"


@pytest.mark.parametrize("url", ["pacs/dicom-web", "ftp://pacs/x", "https://user:secret@pacs/x", "https://pacs/x?a=1"])
def test_addresses_that_are_none(url):
    with pytest.raises(BatchError, match="PEER-ADDRESS") as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_logins_come_from_the_environment_and_stay_off_plain_http(monkeypatch, tmp_path):
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MEDPANOPTIC_DICOMWEB_{name}", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine pacs.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert open_session("https://other.example/x").auth is None
    assert open_session("https://pacs.example/x").auth.password == "secret"
    with pytest.raises(BatchError, match="PEER-PLAIN"):
        open_session("http://pacs.example/x")
    monkeypatch.setenv("MEDPANOPTIC_DICOMWEB_TOKEN", "t0k3n")
    with web_peer([]) as (root, seen):
        open_session(root).get(root)
        assert seen[0]["headers"]["Authorization"] == "Bearer t0k3n"
    assert open_session("https://pacs.example/x").verify is True


def test_no_other_host_is_followed_to():
    with web_peer([]) as (other, seen), web_peer([(302, {"Location": f"{other}/stolen"}, {})]) as (root, _):
        from medpanoptic.pacs.web import RedirectError

        with pytest.raises(RedirectError):
            OneHostSession().get(f"{root}/studies")
        assert seen == []


@given(st.integers(0, 0xFFFF))
def test_every_status_means_something(status):
    reply = store_reply(status)
    assert reply.verdict in {DELIVERED, REFUSED, AGAIN}
    assert (reply.code == "") == (reply.verdict == DELIVERED)
    # the general classes of PS3.7 C.1: a failure never passes for delivered
    if status >> 12 in (0xA, 0xC):
        assert reply.verdict != DELIVERED


@given(st.integers(1, 10**6), st.integers(0, 2**32))
def test_pauses_grow_and_end(attempt, seed):
    policy = Backoff()
    pause = policy.pause_s(attempt, Random(seed))
    full = min(policy.longest_s, policy.first_s * 2 ** min(attempt - 1, 60))
    assert full / 2 <= pause <= full
