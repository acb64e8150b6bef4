"""DICOM over TLS: contexts for both ends, at least TLS 1.2. Source: DICOM PS3.15 B.12 (BCP 195)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpanoptic.errors import BatchError


@dataclass(frozen=True)
class Tls:
    """PEM files. certificate, key : who we are. authority : who signs the certificates of peers.

    A server needs the first two; with ``authority`` it takes only clients that have a certificate of it. A client
    needs none: it then trusts the system's authorities and does not say who it is.
    """

    certificate: str | Path | None = None
    key: str | Path | None = None
    authority: str | Path | None = None


class ServerContext(ssl.SSLContext):
    """Leaves the handshake to the thread of each association: one silent client must not keep all others out."""

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket without a word to the peer."""
        return super().wrap_socket(*arguments, **{**options, "do_handshake_on_connect": False})


class ClientContext(ssl.SSLContext):
    """Keeps what was wrong with a peer's TLS in ``failure``; pynetdicom tells only that there was no connection."""

    failure = ""

    def note(self, error: ssl.SSLError) -> None:
        """Note an error that another try would meet again."""
        if not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
            self.failure = getattr(error, "verify_message", "") or str(error.reason or "TLS failed").lower()


class _ClientSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            self._note(error)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as error:  # TLS 1.3 tells only here that our certificate was not taken
            self._note(error)
            raise

    def _note(self, error: ssl.SSLError) -> None:
        if isinstance(self.context, ClientContext):
            self.context.note(error)


def server_context(tls: Tls) -> ServerContext:
    """Return how to answer a client. Raises BatchError (TLS-FILES)."""
    if tls.certificate is None or tls.key is None:
        raise BatchError("TLS-FILES", "a server needs a certificate and its key (--tls-cert, --tls-key)")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    if tls.authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ClientContext:
    """Return how to call a server, whose certificate must hold for its host name. Raises BatchError (TLS-FILES)."""
    if (tls.certificate is None) != (tls.key is None):
        raise BatchError("TLS-FILES", "a certificate and its key go together (--tls-cert, --tls-key)")
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _ClientSocket
    _load(context, tls)
    if tls.authority is None:
        context.load_default_certs()
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.certificate is not None:
            # nobody is there to type the password of a key: an empty one is tried
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
        if tls.authority is not None:
            context.load_verify_locations(cafile=str(tls.authority))
    except (OSError, ValueError) as error:  # of which SSLError is one
        reason = "a file is missing" if isinstance(error, FileNotFoundError) else str(getattr(error, "reason", error))
        raise BatchError(
            "TLS-FILES", f"certificate, key (without a password) or authority cannot be used, in PEM: {reason}"
        ) from error
