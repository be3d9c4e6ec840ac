"""Encryption: what was sealed comes back, what was not stays, and what cannot be read says so."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import CannotDecrypt, ConfigError, InvalidArguments, Mesh, PayloadTooLarge
from mesh.codecs import Codec, Fernet
from mesh.codecs.base import is_sealed, seal, unseal, unseal_arguments

from .conftest import MemoryMesh

KEYS = [Fernet.new_key() for _ in range(3)]
CODEC = Fernet(KEYS[0])

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$encrypted"), inner),
    max_leaves=10,
)


arguments = st.dictionaries(st.text("abcde"), st.integers() | st.text() | st.booleans())


@given(values)
def test_a_value_comes_back(value: Any) -> None:
    document = msgspec.json.encode(value)
    sealed = seal(CODEC, document)
    assert list(json.loads(sealed)) == ["$encrypted"]
    assert unseal(CODEC, sealed) == document
    assert seal(None, document) == document


@given(arguments, arguments, st.booleans())
def test_arguments_come_back_with_what_the_master_put_beside_them(
    own: dict[str, Any], fed: dict[str, Any], are_sealed: bool
) -> None:
    """Results of parents, sealed or not, one or a list of several."""
    codec = CODEC if are_sealed else None

    def result(value: Any) -> Any:
        return json.loads(seal(codec, msgspec.json.encode(value)))

    beside = {name: result(value) for name, value in fed.items()}
    beside["many"] = [result(value) for value in fed.values()]
    payload = {**beside, **json.loads(seal(CODEC, msgspec.json.encode(own)))}
    found = json.loads(unseal_arguments(CODEC, msgspec.json.encode(payload)))
    assert found == {**fed, "many": list(fed.values()), **own}


@given(st.dictionaries(st.text(), values))
def test_arguments_that_are_not_sealed_stay(arguments: dict[str, Any]) -> None:
    arguments.pop("$encrypted", None)
    payload = msgspec.json.encode(arguments)
    assert unseal_arguments(CODEC, payload) == payload
    assert unseal_arguments(None, payload) == payload


def test_keys_are_changed_one_process_after_the_other() -> None:
    old, both, turned, new = (
        Fernet(KEYS[0]),
        Fernet(KEYS[0], KEYS[1]),
        Fernet(KEYS[1], KEYS[0]),
        Fernet(KEYS[1]),
    )
    by_old, by_new = seal(both, b"1"), seal(turned, b"2")
    assert unseal(old, by_old) == b"1"
    assert (unseal(both, by_new), unseal(turned, by_old)) == (b"2", b"1")
    assert unseal(new, by_new) == b"2"
    with pytest.raises(CannotDecrypt, match=r"a key that this app does not have.*new_key, old_key"):
        unseal(new, by_old)


def test_what_was_changed_is_refused() -> None:
    sealed = json.loads(seal(CODEC, b'{"a":1}'))
    token = sealed["$encrypted"]
    sealed["$encrypted"] = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    with pytest.raises(CannotDecrypt, match="or was changed since"):
        unseal_arguments(CODEC, msgspec.json.encode(sealed))


def test_without_a_codec_what_is_sealed_is_refused() -> None:
    sealed = seal(CODEC, b"{}")
    assert is_sealed(sealed)
    with pytest.raises(CannotDecrypt, match=r"this app has no codec: .*codec=Fernet\(key\)"):
        unseal(None, sealed)
    with pytest.raises(CannotDecrypt, match="this app has no codec"):
        unseal_arguments(None, sealed)


@pytest.mark.parametrize("keys", [(), ("short",), (KEYS[0], "x" * 44), (42,)])
def test_bad_keys_are_refused_and_not_shown(keys: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=r"Fernet\.new_key\(\)") as caught:
        Fernet(*keys)
    assert not any(str(key) in str(caught.value) for key in keys if key != 42)


def test_fernet_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"pip install 'jobmesh\[crypto\]'"):
        Fernet(KEYS[0])


def test_a_codec_must_be_one() -> None:
    with pytest.raises(ConfigError, match=r"must be a mesh\.codecs\.Codec"):
        Mesh(agents={"m": "memory://unused"}, codec=KEYS[0])  # type: ignore[arg-type]


class Reversing(Codec):
    """Somebody's own."""

    def encrypt(self, data: bytes) -> str:
        return data.decode()[::-1]

    def decrypt(self, text: str) -> bytes:
        return text[::-1].encode()


async def test_agents_see_no_argument_in_plain() -> None:
    async with MemoryMesh(codec=Reversing()) as app:

        @app.job
        async def work(n: int, text: str = "secret") -> None: ...

        await work.enqueue(1)
        await work.enqueue_many([(2,)])
        for n, job in enumerate(await app.taken(), start=1):
            assert json.loads(job.payload) == {"$encrypted": f'{{"n":{n},"text":"secret"}}'[::-1]}
            assert work.decode(job.payload) == {"n": n, "text": "secret"}


async def test_arguments_are_checked_as_ever_before_they_are_encrypted() -> None:
    async with MemoryMesh(codec=CODEC) as app:

        @app.job
        async def work(text: str) -> None: ...

        with pytest.raises(InvalidArguments):
            await work.enqueue(1)  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLarge):
            await work.enqueue("x" * 2001)
        assert await app.stored() == 0
