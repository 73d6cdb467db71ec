"""Secrets are left out of texts and values, wherever they stand and however they are written; other words stay."""

from __future__ import annotations

import time
from urllib.parse import quote, quote_plus

import pytest

from evertune.utils.redaction import LEFT_OUT, without_secrets

SECRET = "s3cr3t-4711"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:s3cr3t@4711@host/x",
        "postgresql://u:s3cr3t/4711@h/db",
        "https://u:s3cr3t@a/4711@h",
        "redis://:s3cr3t@h:1/0",
        "https://s3cr3t@h/",
        "http://u:47/11s3cr3t@h",
        "GET /x?sig=s3cr3t&b=1",
        "https://b.s3.example/k?X-Amz-Signature=s3cr3t&X-Amz-Credential=s3cr3t",
        "https://h/#token=s3cr3t",
        "https://h/#access_token=s3cr3t&b",
        "https://h/?a=1;accessToken=s3cr3t",
        "Authorization: Bearer s3cr3t.4711",
        "authorization: Basic czNjcjN0s3cr3t==",
        "headers {'Authorization': 'Bearer s3cr3t'}",
        "sent bearer s3cr3t.4711",
        'answered {"accessToken": "s3cr3t", "a": 1}',
        "{'client_secret':'s3cr3t'}",
    ],
)
def test_secrets_in_texts(text):
    assert "s3cr3t" not in without_secrets(text) and LEFT_OUT in without_secrets(text)


@pytest.mark.parametrize(
    "name", "accessToken authorization passphrase auth apiKey APIKey clientSecret password".split()
)
def test_secrets_by_the_name_of_their_key(name):
    assert without_secrets({name: SECRET}) == {name: LEFT_OUT}


@pytest.mark.parametrize(
    "write", [str, lambda text: quote(text, safe=""), quote_plus, lambda text: quote(text).lower()]
)
def test_secrets_of_the_environment_in_every_form(monkeypatch, write):
    monkeypatch.setenv("SERVICE_TOKEN", "a/b c+d@e")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p%2Fq%40r5t@h:1")
    for secret in ("a/b c+d@e", "p/q@r5t"):
        assert without_secrets(f"x {write(secret)} y") == f"x {LEFT_OUT} y"


@pytest.mark.parametrize(
    "text",
    [
        "could not download http://127.0.0.1:9/@iconify-json/noto",
        "http://localhost:4873/@scope/name and https://registry.npmjs.org/@scope/name",
        "https://h/?page=2&keys=closed#tokens=3",
        "send the token as 'Authorization: Bearer ...'",
        "write to me@example.org, see https://example.org/a:b",
        "{'monkey': 'banana', 'max_new_tokens': '3'}",
    ],
)
def test_other_texts_stay(text):
    assert without_secrets(text) == text


@pytest.mark.slow
def test_long_texts_take_no_time():
    start = time.monotonic()
    for part in ("://a:", "://", "?key=", "Authorization:", "'a':'", "Bearer ", '"key" : '):
        without_secrets(part * 40_000)
    assert time.monotonic() - start < 10
