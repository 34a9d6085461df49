"""Tokens that must not let anybody in, each one step from a good one; and what the log says of them: nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.clients import Raw
from tests.servers.conftest import Serve
from tests.servers.harness import Server

from .attacks import ATTACKS, Assault
from .bystanders import Bystanders
from .stand import APP, CONFIG, publisher, target_of

jwt = pytest.importorskip("jwt", reason="tokens need the extra cartows[jwt]")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa", reason="RSA keys need the extra cartows[jwt]")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")

Claims = dict[str, Any]

#: The endpoint of the app that wants tokens.
PATH = "/guarded"


class Issuer:
    """Who signs the good ones."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self.key.public_key()
        subject = serialization.PublicFormat.SubjectPublicKeyInfo
        self.pem: bytes = public.public_bytes(serialization.Encoding.PEM, subject)
        self.der: bytes = public.public_bytes(serialization.Encoding.DER, subject)

    def token(self, algorithm: str = "RS256", headers: Claims | None = None, **claims: Any) -> str:
        return str(jwt.encode(claims_of(**claims), self.key, algorithm, headers=headers))


def claims_of(**claims: Any) -> Claims:
    """Return good claims with some replaced; None leaves one out."""
    now = int(time.time())
    good = {"sub": "ann", "aud": "hostile", "iss": "tests", "iat": now, "exp": now + 600, "rooms": "*"}
    return {name: value for name, value in {**good, **claims}.items() if value is not None}


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: Claims, claims: Claims, sign: Callable[[bytes], bytes]) -> str:
    """Make a token as no library would."""
    said = f"{part(header)}.{part(claims)}"
    return f"{said}.{part(sign(said.encode()))}"


def keyed(secret: bytes, digest: str = "sha256") -> Callable[[bytes], bytes]:
    return lambda data: hmac.new(secret, data, getattr(hashlib, digest)).digest()


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def server(serve: Serve, issuer: Issuer) -> Server:
    return serve(APP, config={**CONFIG, "HOSTILE_PUBLIC_KEY": issuer.pem.decode()})


def with_swapped_user(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    return f"{head}.{part(claims_of(sub='root'))}.{signature}"


def with_key_inside(issuer: Issuer, header: str) -> str:
    """Bring the key to check with, or say where it lies."""
    own = Issuer()
    numbers = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.key.public_key()))
    return own.token(headers={header: numbers if header == "jwk" else "http://127.0.0.1:9/keys.json"})


NOW = int(time.time())

FORGED: dict[str, Callable[[Issuer], str]] = {
    "no algorithm": lambda issuer: by_hand({"alg": "none", "typ": "JWT"}, claims_of(), lambda data: b""),
    "no algorithm, written oddly": lambda issuer: by_hand({"alg": "nOnE"}, claims_of(), lambda data: b""),
    "no algorithm, an empty name": lambda issuer: by_hand({"alg": ""}, claims_of(), lambda data: b""),
    "no algorithm, none named": lambda issuer: by_hand({"typ": "JWT"}, claims_of(), lambda data: b""),
    "several algorithms": lambda issuer: by_hand({"alg": ["RS256", "none"]}, claims_of(), lambda data: b""),
    "the public key as a secret": lambda issuer: by_hand({"alg": "HS256"}, claims_of(), keyed(issuer.pem)),
    "the public key, stripped, as a secret": lambda issuer: by_hand({"alg": "HS256"}, claims_of(), keyed(issuer.pem.strip())),
    "the public key in DER as a secret": lambda issuer: by_hand({"alg": "HS512"}, claims_of(), keyed(issuer.der, "sha512")),
    "an empty secret": lambda issuer: by_hand({"alg": "HS256"}, claims_of(), keyed(b"")),
    "another key": lambda issuer: Issuer().token(),
    "another user, the signature kept": with_swapped_user,
    "the signature cut off": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "the signature shortened": lambda issuer: issuer.token()[:-8],
    "its own key inside": lambda issuer: with_key_inside(issuer, "jwk"),
    "its own key elsewhere": lambda issuer: with_key_inside(issuer, "jku"),
    "a key in a file": lambda issuer: Issuer().token(headers={"kid": "../../../../dev/null"}),
    "a key that is no text": lambda issuer: by_hand({"alg": "RS256", "kid": {"$ne": 1}}, claims_of(), lambda data: b"x"),
    "something critical": lambda issuer: issuer.token(headers={"crit": ["exp"], "exp": NOW}),
    "expired": lambda issuer: issuer.token(exp=NOW - 60),
    "without an end": lambda issuer: issuer.token(exp=None),
    "an end that is no number": lambda issuer: by_hand({"alg": "RS256"}, claims_of(exp="never"), lambda data: b"x"),
    "not yet": lambda issuer: issuer.token(nbf=NOW + 600),
    "another audience": lambda issuer: issuer.token(aud="elsewhere"),
    "without an audience": lambda issuer: issuer.token(aud=None),
    "another issuer": lambda issuer: issuer.token(iss="somebody"),
    "without an issuer": lambda issuer: issuer.token(iss=None),
    "nobody": lambda issuer: issuer.token(sub=None),
    "two in one": lambda issuer: f"{issuer.token()}.{issuer.token()}",
    "nothing": lambda issuer: "x",
}


def bearer(token: str) -> tuple[str, dict[str, str | None]]:
    return PATH, {"Authorization": f"Bearer {token}"}


def subprotocol(token: str) -> tuple[str, dict[str, str | None]]:
    return PATH, {"Sec-WebSocket-Protocol": f"cartows, bearer.{token}"}


def query(token: str) -> tuple[str, dict[str, str | None]]:
    return f"{PATH}?access_token={token}", {}


WAYS = (bearer, subprotocol, query)


@pytest.mark.parametrize("way", WAYS)
def test_a_good_token_lets_in(server: Server, issuer: Issuer, way: Callable[[str], tuple[str, Any]]) -> None:
    raw = server.upgraded(*way(issuer.token()))
    server.publish("broadcast", "news")
    assert raw.receive()["type"] == "news"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_lets_nobody_in(server: Server, issuer: Issuer, name: str) -> None:
    token = FORGED[name](issuer)
    start = len(server.log())
    for way in WAYS:
        raw = server.raw()
        response = raw.open(*way(token))
        assert response.status == 401, name
        assert response.json["code"] == "UNAUTHORIZED"
        if len(token) > 1:
            assert token not in response.body.decode()
    assert server.client_count() == 0
    # A part of it is a part too many: whoever reads the log has the signature, or the claims.
    pieces = [piece for piece in token.split(".") if len(piece) > 20]
    assert not [piece for piece in pieces if piece in server.log(start)]


def refreshed(raw: Raw, token: Any) -> dict[str, Any]:
    raw.send_json({"type": "auth.refresh", "data": {"token": token}})
    return raw.receive()


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_refreshes_nothing(server: Server, issuer: Issuer, name: str) -> None:
    token = FORGED[name](issuer)
    start = len(server.log())
    raw = server.upgraded(*bearer(issuer.token()))
    answer = refreshed(raw, token)
    assert answer["type"] == "error", answer
    assert answer["data"]["code"] == "FORBIDDEN"
    assert len(token) < 2 or token not in json.dumps(answer)
    # Whoever it is, it stays who it was, and may try again.
    assert refreshed(raw, issuer.token(exp=NOW + 900))["type"] == "auth.refreshed"
    assert len(token) < 2 or token not in server.log(start)


def test_another_users_good_token_refreshes_nothing(server: Server, issuer: Issuer) -> None:
    raw = server.upgraded(*bearer(issuer.token()))
    answer = refreshed(raw, issuer.token(sub="bob"))
    assert answer["data"]["code"] == "FORBIDDEN", answer
    assert refreshed(raw, issuer.token())["type"] == "auth.refreshed"


def test_a_token_that_expires_is_put_out_and_its_old_self_is_not_let_in_again(server: Server, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) + 2)
    raw = server.upgraded(*bearer(token))
    frames, closed = raw.ended()
    assert closed.code == 3005
    assert frames[-1].json["data"]["code"] == 3005
    assert server.raw().open(*bearer(token)).status == 401


def test_the_well_behaved_notice_nothing_of_forged_tokens(server: Server, issuer: Issuer) -> None:
    (attack,) = [attack for attack in ATTACKS if attack.name == "forged tokens"]
    target = target_of(server, ("Authorization", f"Bearer {issuer.token()}"))._replace(path=PATH)
    assault = Assault(target, [attack], seed=1)
    with Bystanders(target, publisher(server)) as bystanders:
        assault.start()
        time.sleep(0.5)
        assault.stop()
    assert not assault.findings
    assert assault.ends[attack.name]["401"]
    assert not bystanders.report.problems()
