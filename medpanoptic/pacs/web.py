"""HTTP for DICOMweb: certificates are checked, no other host is followed to, secrets come from the environment."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

from medpanoptic.errors import BatchError
from medpanoptic.pacs.parcels import AGAIN, SETUP, Reply

USER, PASSWORD, TOKEN = (f"MEDPANOPTIC_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RedirectError(requests.RequestException):
    """A server sends us to another host."""


class OneHostSession(requests.Session):
    """A session that refuses redirects to another host, port or scheme."""

    def get_redirect_target(self, resp: Any) -> str | None:
        """Return where a response leads, if it is on the same host."""
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            new, old = urlsplit(target), urlsplit(resp.url)
            if new.netloc and (new.scheme or old.scheme, new.netloc) != (old.scheme, old.netloc):
                raise RedirectError
        return target


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def check_url(url: str) -> str:
    """Return the address of a DICOMweb service without a slash at its end. Raises BatchError (PEER-ADDRESS)."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise BatchError("PEER-ADDRESS", f"no login in an address: use {USER} and {PASSWORD}, {TOKEN} or .netrc")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise BatchError("PEER-ADDRESS", "expected the root of a DICOMweb service, such as https://HOST/dicom-web")
    return url.rstrip("/")


def open_session(url: str) -> OneHostSession:
    """Return a session with the login for a service: a token or user and password from the environment, or .netrc.

    Certificates are checked against the system's list, or REQUESTS_CA_BUNDLE. Raises BatchError (PEER-PLAIN): a login
    would go over plain HTTP to another machine.
    """
    session = OneHostSession()
    if token := os.environ.get(TOKEN):
        session.auth = _Bearer(token)
    elif user := os.environ.get(USER):
        session.auth = HTTPBasicAuth(user, os.environ.get(PASSWORD, ""))
    elif login := get_netrc_auth(url):
        session.auth = HTTPBasicAuth(*login)
    parts = urlsplit(url)
    if session.auth is not None and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise BatchError("PEER-PLAIN", "a login over plain HTTP can be read by others: use https")
    return session


def error_reply(error: requests.RequestException) -> Reply:
    """Return what an exception means. Its text may quote an address with UIDs, and stays here."""
    if isinstance(error, RedirectError | requests.TooManyRedirects):
        return Reply(SETUP, "PEER-REDIRECT", "redirect")
    if isinstance(error, requests.exceptions.SSLError):
        return Reply(SETUP, "PEER-TLS", "certificate or TLS")
    if isinstance(error, requests.ConnectTimeout):
        return Reply(AGAIN, "PEER-UNREACHABLE", "no connection")
    if isinstance(error, requests.Timeout):
        return Reply(AGAIN, "PEER-LOST", "no answer")
    if isinstance(error, requests.ConnectionError):
        return Reply(AGAIN, "PEER-UNREACHABLE", "no connection")
    return Reply(AGAIN, "PEER-LOST", "answer cut")
