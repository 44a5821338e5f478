"""Which files are served, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from flagsvc.server import Server
from flagsvc.settings import Settings
from flagsvc.tls import pair
from flagsvc.tls.pair import Files, FilesChanged, PairRefused, prove, read, utc_now
from flagsvc.urls import SettingsError
from tests.certificates import DAY, Authority, Signed, put

AUTHORITY = Authority()
GOOD = AUTHORITY.sign()
RSA = AUTHORITY.sign(key=rsa.generate_private_key(public_exponent=65_537, key_size=2_048))
SECRET = "hunter2hunter2"


def written(folder: Path, certificate: bytes, key: bytes, client_ca: bytes | None = None) -> Files:
    put(folder / "c", certificate)
    put(folder / "k", key)
    if client_ca is not None:
        put(folder / "ca", client_ca)
    return Files(folder / "c", folder / "k", {} if client_ca is None else {"sync": folder / "ca"})


@pytest.mark.parametrize("signed", [GOOD, RSA, AUTHORITY.sign(key=ec.generate_private_key(ec.SECP521R1()))])
def test_a_pair_with_its_chain_is_good(signed: Signed, tmp_path: Path) -> None:
    files = written(tmp_path, signed.pem + AUTHORITY.own.pem, signed.key_pem, AUTHORITY.own.pem * 2)
    found = prove(files, read(files), now=utc_now())
    assert found.expires_at == signed.certificate.not_valid_after_utc
    assert set(found.contexts) == {"grpc", "ofrep", "management"}
    assert "PRIVATE" not in repr(found)


def encrypted() -> bytes:
    form = Encoding.PEM, PrivateFormat.PKCS8
    return GOOD.key.private_bytes(*form, BestAvailableEncryption(SECRET.encode()))


WEAK = AUTHORITY.sign(key=rsa.generate_private_key(public_exponent=65_537, key_size=1_024))
CURVE = AUTHORITY.sign(key=ec.generate_private_key(ec.SECP256K1()))
CLIENT_CA = "FLAGSVC_TLS_CLIENT_CA names the file '{}/ca': it has no certificates"
BAD: dict[str, tuple[bytes, bytes, bytes | None, str]] = {
    "no certificate": (b"", GOOD.key_pem, None, "FLAGSVC_TLS_CERT names the file '{}/c': it has no certificates"),
    "the key first": (GOOD.key_pem, GOOD.pem, None, "FLAGSVC_TLS_CERT names the file '{}/c': it has no certificates"),
    "cut off": (GOOD.pem[:300], GOOD.key_pem, None, "FLAGSVC_TLS_CERT names the file '{}/c': it has no certificates"),
    "no key": (GOOD.pem, GOOD.pem, None, "FLAGSVC_TLS_KEY names the file '{}/k': it is no private key in PEM form"),
    "half a key": (GOOD.pem, GOOD.key_pem[:90], None, "FLAGSVC_TLS_KEY names the file '{}/k': it is no private key"),
    "another's key": (GOOD.pem, RSA.key_pem, None, "it is not the key of the first certificate in '{}/c'"),
    "an encrypted key": (GOOD.pem, encrypted(), None, "the key is encrypted; it must be a key without a password"),
    "a weak key": (WEAK.pem, WEAK.key_pem, None, "its key must be RSA of at least 2048 bits, or ECDSA"),
    "a rare curve": (CURVE.pem, CURVE.key_pem, None, "its key must be RSA of at least 2048 bits, or ECDSA"),
    "not valid yet": (
        *((late := AUTHORITY.sign(begins=DAY, ends=2 * DAY)).pem, late.key_pem, None),
        "the certificate is valid from",
    ),
    "expired": (*((old := AUTHORITY.sign(begins=-2 * DAY, ends=-DAY)).pem, old.key_pem, None), "so not now"),
    "too large": (GOOD.pem * 3_000, GOOD.key_pem, None, "it has more than 1,000,000 bytes"),
    "an empty client CA": (GOOD.pem, GOOD.key_pem, b"", CLIENT_CA),
    "a binary client CA": (GOOD.pem, GOOD.key_pem, b"\x30\x82\xff", CLIENT_CA),
}


@pytest.mark.parametrize(("certificate", "key", "client_ca", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_files_is_said(
    certificate: bytes, key: bytes, client_ca: bytes | None, said: str, tmp_path: Path
) -> None:
    files = written(tmp_path, certificate, key, client_ca)
    with pytest.raises(PairRefused) as refused:
        prove(files, read(files), now=utc_now())
    assert said.format(tmp_path) in str(refused.value)
    assert "PRIVATE" not in str(refused.value)


def test_files_that_change_meanwhile_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, GOOD.pem, GOOD.key_pem)
    contents, context = read(files), pair._context

    def replaced_while_loading(*arguments: object) -> object:
        put(files.certificate, RSA.pem)
        put(files.key, RSA.key_pem)
        return context(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pair, "_context", replaced_while_loading)
    with pytest.raises(FilesChanged):
        prove(files, contents)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_cert": "/c"}, "TLS needs both FLAGSVC_TLS_CERT and FLAGSVC_TLS_KEY"),
        ({"tls_key": "/k"}, "TLS needs both"),
        ({"tls_client_ca": "/ca"}, "TLS needs both"),
        ({"management_tls": True}, "TLS needs both"),
        ({"tls_cert": "/no/such", "tls_key": "/k"}, "FLAGSVC_TLS_CERT names the file '/no/such': it cannot be read"),
    ],
)
def test_a_server_does_not_start_without_good_files(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Server(Settings(**given))  # type: ignore[arg-type]


def test_a_listener_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="FLAGSVC_TLS_CLIENT_CA has 'http=/ca'; it must be a file for all, or LIST"):
        Settings.from_env({"FLAGSVC_TLS_CLIENT_CA": "http=/ca"})
