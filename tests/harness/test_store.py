"""Files that are not what they should be are named in an error, whatever is in them."""

from __future__ import annotations

import gzip

import pytest

from harness import store
from harness.errors import UserError


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b'"\xff"'])
def test_what_is_not_json_is_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "value.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"value\.json"):
        store.read_json(path)


def test_a_gzip_file_that_is_cut_or_spoiled_is_an_error(tmp_path):
    path = tmp_path / "lines.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 100)
    for data in (whole[:-9], whole[:12] + b"\xff" * 20, b"plain"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not a whole gzip file"):
            store.read_jsonl(path)


def test_a_small_gzip_file_that_unpacks_to_an_endless_line_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "lines.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' + b" " * 10**7))
    with pytest.raises(UserError, match="line 2: longer than 1000 bytes"):
        store.read_jsonl(path)
