"""Keys, passwords, bearer tokens and the throttle, each by itself."""

from __future__ import annotations

import base64
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import Config
from mesh.errors import ConfigError
from mesh.secret import digest, new_key, parse_key, same
from mesh.sign_in import JwtRules, Scope
from mesh_master.access.attempts import Throttle
from mesh_master.access.passwords import Passwords, hash_password
from mesh_master.access.tokens import BadToken, Tokens

SHARED = "0123456789abcdef0123456789abcdef"
URL = "sqlite:///mesh.db"


def test_keys_name_themselves_and_are_kept_as_digests() -> None:
    key_id, key = new_key()
    assert parse_key(key) == key_id
    assert len({new_key()[1] for _ in range(100)}) == 100
    assert same(digest(key), digest(key))
    assert not same(digest(key), digest(key + "x"))
    with pytest.raises(ConfigError) as raised:
        parse_key(key + "!")
    assert key not in str(raised.value)


async def test_passwords() -> None:
    stored = hash_password("correct horse battery")
    assert stored.startswith("$argon2id$")
    checks = Passwords()
    assert await checks.check("correct horse battery", stored)
    assert not await checks.check("correct horse batterz", stored)
    assert not await checks.check("correct horse battery", None)
    assert not await checks.check("nobody has this password", None)
    assert not await checks.check("x" * 100_000, stored)
    assert not await checks.check("correct horse battery", "not a hash")
    with pytest.raises(ConfigError, match="12 to 256"):
        hash_password("short")


def test_scopes_contain_each_other() -> None:
    assert [[a.covers(b) for b in Scope] for a in Scope] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# bearer tokens -------------------------------------------------------------------------------


def claims(**changed: Any) -> dict[str, Any]:
    given = {"iss": "us", "aud": "mesh", "sub": "ann", "exp": time.time() + 60, "scope": "operate"}
    return {key: value for key, value in (given | changed).items() if value is not None}


def shared(**options: Any) -> Tokens:
    return Tokens(JwtRules.parse("test", {"issuer": "us", "audience": "mesh", **options}))


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        ("operate", Scope.OPERATE),
        ("openid mesh:admin read", Scope.ADMIN),
        (["mesh:read", "email"], Scope.READ),
    ],
)
def test_a_token_says_who_and_what(scope: Any, found: Scope) -> None:
    token = jwt.encode(claims(scope=scope), SHARED)
    assert shared(secret=SHARED).check(token) == ("ann", found)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "them"}, "issuer"),
        ({"aud": "others"}, "[Aa]udience"),
        ({"exp": time.time() - 600}, "expired"),
        ({"exp": None}, "exp"),
        ({"aud": None}, "aud"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"nbf": time.time() + 600}, "not yet valid"),
        ({"scope": "openid"}, "none of read"),
        ({"scope": {"admin": True}}, "none of read"),
    ],
)
def test_a_token_that_is_not_for_us_is_not_believed(changed: dict[str, Any], why: str) -> None:
    token = jwt.encode(claims(**changed), SHARED)
    with pytest.raises(BadToken, match=why) as raised:
        shared(secret=SHARED).check(token)
    assert token not in str(raised.value)


def test_a_token_signed_otherwise_is_not_believed() -> None:
    for token in (
        jwt.encode(claims(), SHARED[::-1]),
        jwt.encode(claims(), "", algorithm="none"),
        jwt.encode(claims(), SHARED * 2, algorithm="HS512"),
        "no.token.at-all",
        "",
    ):
        with pytest.raises(BadToken):
            shared(secret=SHARED).check(token)


def jwks(path: Path, *keys: tuple[str, Any]) -> None:
    """Write the public keys, as an issuer publishes them."""
    found = []
    for key_id, key in keys:
        kind: Any = jwt.algorithms.RSAAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey):
            kind = jwt.algorithms.ECAlgorithm
        public = json.loads(kind.to_jwk(key.public_key()))
        found.append(public | {"kid": key_id, "use": "sig"})
    path.write_text(json.dumps({"keys": found}), "utf-8")


def test_public_keys_of_both_kinds_and_their_rotation(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    old = rsa.generate_private_key(65537, 2048)
    new = ec.generate_private_key(ec.SECP256R1())
    jwks(path, ("old", old))
    tokens = shared(jwks=str(path))
    with_old = jwt.encode(claims(), old, "RS256", {"kid": "old"})
    with_new = jwt.encode(claims(), new, "ES256", {"kid": "new"})
    assert tokens.check(with_old)[0] == "ann"
    with pytest.raises(BadToken, match="'new'"):
        tokens.check(with_new)
    path.write_text("{", "utf-8")  # half written: those read before hold
    assert tokens.check(with_old)[0] == "ann"
    jwks(path, ("new", new))
    os.utime(path, ns=(1, 1))
    assert tokens.check(with_new)[0] == "ann"
    with pytest.raises(BadToken, match="'old'"):
        tokens.check(with_old)


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_a_public_key_is_no_shared_secret(tmp_path: Path) -> None:
    """The classic confusion: a token signed with HMAC, with the public key as its secret."""
    path, key = tmp_path / "jwks.json", rsa.generate_private_key(65537, 2048)
    jwks(path, ("k", key))
    # PyJWT itself does not sign so.
    signed = ".".join(map(_encoded, ({"alg": "HS256", "kid": "k"}, claims())))
    mac = hmac.digest(path.read_bytes(), signed.encode(), "sha256")
    forged = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    with pytest.raises(BadToken):
        shared(jwks=str(path)).check(forged)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"issuer": "us", "audience": "m"}, "either secret, or jwks"),
        ({"issuer": "us", "audience": "m", "secret": "short"}, "fewer than 32"),
        ({"issuer": "us", "secret": SHARED}, "audience"),
        ({"issuer": "us", "audience": "m", "secrt": SHARED}, "did you mean 'secret'"),
        ({"issuer": "us", "audience": "m", "secret": SHARED, "algorithms": ["none"]}, "'none'"),
        ({"issuer": "us", "audience": "m", "secret": SHARED, "algorithms": ["RS256"]}, "RS256"),
        ({"issuer": "us", "audience": "m", "jwks": "/nowhere.json"}, "no such file"),
        ("{", "not JSON"),
        (5, "must be a table"),
    ],
)
def test_rules_that_would_be_unsafe_are_refused(given: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        Config.build(URL, jwt=given)
    assert SHARED not in str(raised.value)


def test_the_settings_of_sign_in() -> None:
    config = Config.from_env(
        {
            "MESH_URL": URL,
            "MESH_REDACT": "password, token",
            "MESH_OPERATORS_MAY": "retry",
            "MESH_SIGN_IN": "required",
            "MESH_JWT": json.dumps({"issuer": "us", "audience": "m", "secret": SHARED}),
        }
    )
    assert config.redact == ("password", "token")
    assert (config.operators_may, config.sign_in) == (("retry",), "required")
    assert config.jwt is not None
    assert config.jwt.algorithms == ("HS256",)
    for wrong in ({"operators_may": ["fly"]}, {"sign_in": "never"}, {"session_ttl": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Config.build(URL, **wrong)


# the throttle --------------------------------------------------------------------------------


def test_failures_are_slowed_down_and_forgiven() -> None:
    throttle = Throttle(3, 10.0)
    for _ in range(3):
        assert throttle.wait("ann", 0.0) == 0
        throttle.failed("ann", 0.0)
    assert throttle.wait("ann", 0.0) == pytest.approx(10.0)
    assert throttle.wait("bob", 0.0) == 0
    assert throttle.wait("ann", 10.0) == 0
    throttle.failed("ann", 10.0)
    assert throttle.wait("ann", 10.0) == pytest.approx(10.0)
    throttle.succeeded("ann")
    assert throttle.wait("ann", 10.0) == 0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_nobody_tries_more_often_than_is_allowed(pauses: list[float]) -> None:
    """Whoever tries whenever it is allowed has ``most + time / per`` tries at most."""
    throttle, now, tries = Throttle(3, 10.0), 0.0, 0
    for pause in pauses:
        now += pause
        if throttle.wait("x", now) == 0:
            throttle.failed("x", now)
            tries += 1
    assert tries <= 3 + now / 10.0 + 1e-6


def test_what_is_remembered_is_bounded() -> None:
    throttle = Throttle(1, 10.0, remembered=2)
    for who in "abc":
        throttle.failed(who, 0.0)
    assert [throttle.wait(who, 0.0) > 0 for who in "abc"] == [False, True, True]
