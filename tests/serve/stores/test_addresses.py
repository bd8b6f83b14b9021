"""Which addresses are allowed, what they name, and that their secrets are not shown."""

from __future__ import annotations

import pytest

from torchship.script.errors import UsageError
from torchship.serve.settings import read_settings, show
from torchship.serve.stores.addresses import read_address, redact


@pytest.mark.parametrize(
    ("text", "url", "is_archive"),
    [
        ("s3://bucket", "s3://bucket", False),
        ("S3://bucket/models/", "s3://bucket/models", False),
        ("gs://bucket/models/a.pt", "gs://bucket/models/a.pt", True),
        ("s3://bucket/folder.pt/", "s3://bucket/folder.pt", False),
        ("abfs://box@account.dfs.core.windows.net/m", None, False),
        ("hf://user/repo", "hf://user/repo", False),
        ("hf://user/repo/models@v1.0", "hf://user/repo@v1.0/models", False),
        ("hf://user/repo@v1.0/a.pt", "hf://user/repo@v1.0/a.pt", True),
        ("hf://user/repo/a.pt@main", "hf://user/repo@main/a.pt", True),
        ("hf://datasets/user/repo/a.pt@main", "hf://datasets/user/repo@main/a.pt", True),
        ("https://host/a.pt?token=1#part", "https://host/a.pt?token=1", True),
        ("file:///models", "file:///models", False),
    ],
)
def test_an_address_is_read(text: str, url: str | None, is_archive: bool) -> None:
    address = read_address(text)
    assert address.url == (url or text)
    assert address.is_archive == is_archive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ssh://host/models", "begins with one of s3://"),
        ("git://host/models", "begins with one of s3://"),
        ("jupyter://host/models", "begins with one of s3://"),
        ("memory://models", "begins with one of s3://"),
        ("simplecache::s3://bucket/models", "begins with one of s3://"),
        ("s3://bucket::ssh://host", "without '::'"),
        ("s3://", "there is no name"),
        ("https:///models", "there is no name"),
        ("s3://bucket/\x1b[2J", "control characters"),
        ("s3://bucket/../other", "without '.' and '..'"),
        ("s3://key:secret@bucket/models", "set them in the environment"),
        ("hf://user", "hf://USER/REPOSITORY"),
        ("file://models", "an absolute path"),
        ("https://host/models?list=1", "only the address of one archive"),
    ],
)
def test_another_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")) as caught:
        read_address(text)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "https://user:word@host/a.pt",
        "https://host/a.pt?X-Amz-Signature=word",
        "cannot get 'https://host/a.pt?sig=word&x=word' today",
    ],
)
def test_secrets_are_not_shown(text: str) -> None:
    assert "word" not in redact(text)
    assert "host" in redact(text)


def test_the_settings_keep_paths_and_addresses_apart() -> None:
    given: dict[str, object] = {"paths": ("a.pt", "s3://b/m", "https://h/x.pt?sig=word")}
    settings = read_settings(given)
    assert [str(path) for path in settings.local_paths] == ["a.pt"]
    assert [address.url for address in settings.addresses] == [
        "s3://b/m",
        "https://h/x.pt?sig=word",
    ]
    (shown,) = [info for info in show(settings, given) if info.name == "paths"]
    assert shown.value == ["a.pt", "s3://b/m", "https://h/x.pt?***"]
    assert "word" not in repr(settings)
    with pytest.raises(UsageError, match="begins with one of") as caught:
        read_settings({"paths": ("ftp://user:word@host/m",)})
    assert "word" not in str(caught.value)
