"""Files that are not what they should be are named in an error, whatever is in them."""

from __future__ import annotations

import codecs
import gzip

import pytest

from harness.core import files, folders
from harness.core.errors import UserError
from harness.core.files import read_json, read_jsonl, read_text
from harness.core.schema import Message


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b'"\xff"'])
def test_what_is_not_json_is_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "value.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"value\.json"):
        files.read_json(path)


TWICE = b'{"a": {"score": 1, "other": 2, "score": 1000}}\n'


def test_a_key_that_is_there_twice_is_refused_by_name(tmp_path):
    path = tmp_path / "value.json"
    path.write_bytes(TWICE)
    with pytest.raises(UserError, match=r"value\.json .*'score' is there twice"):
        files.read_json(path)
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b'{"a": 1}\n' + TWICE)
    with pytest.raises(UserError, match=r"lines\.jsonl, line 2: .*'score' is there twice"):
        files.read_jsonl(lines)
    packed = tmp_path / "lines.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    with pytest.raises(UserError, match=r"line 2: .*'score' is there twice"):
        files.read_jsonl(packed)


def test_equal_keys_of_different_objects_are_fine(tmp_path):
    path = tmp_path / "value.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": {"b": 1}, "b": [{"b": 2}, {"b": 3}]}')
    assert files.read_json(path) == {"a": {"b": 1}, "b": [{"b": 2}, {"b": 3}]}


def test_a_gzip_file_that_is_cut_or_spoiled_is_an_error(tmp_path):
    path = tmp_path / "lines.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 100)
    for data in (whole[:-9], whole[:12] + b"\xff" * 20, b"plain"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not a whole gzip file"):
            files.read_jsonl(path)


def test_a_small_gzip_file_that_unpacks_to_an_endless_line_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "lines.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' + b" " * 10**7))
    with pytest.raises(UserError, match="line 2: longer than 1,000 bytes"):
        files.read_jsonl(path)


def test_a_small_gzip_file_that_unpacks_to_many_lines_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 1000)
    path, plain = tmp_path / "lines.jsonl.gz", tmp_path / "lines.jsonl"
    path.write_bytes(gzip.compress(b"{}\n" * 11))
    plain.write_bytes(b"{}\n" * 11)
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes: not read"):
        files.read_jsonl(path)
    assert len(files.read_jsonl(plain)) == 11


def test_json_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "value.json"
    path.write_bytes(b" " * 1001)
    with pytest.raises(UserError, match="larger than 1,000 bytes: not read"):
        files.read_json(path)


def test_a_field_that_is_refused_is_named_by_its_beginning(tmp_path):
    with pytest.raises(UserError) as caught:
        files.parse(Message, {"role": "user", "content": "c", "x" * 10**6: 1}, "here")
    assert len(str(caught.value)) < 300


BOM = codecs.BOM_UTF8


def test_a_byte_order_mark_before_json_is_passed_over(tmp_path):
    (tmp_path / "a.json").write_bytes(BOM + b'{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    lines = BOM + b'{"a": 1}\r\n' + BOM + b"\r\n" + BOM + b'{"a": 2}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    assert read_jsonl(tmp_path / "a.jsonl") == [(1, {"a": 1}), (3, {"a": 2})]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    assert read_jsonl(tmp_path / "b.jsonl.gz") == read_jsonl(tmp_path / "a.jsonl")


def test_text_is_read_without_its_byte_order_mark_and_within_bounds(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(BOM + "Ada\n\u0141ukasz".encode())
    assert read_text(path, 100, "names") == "Ada\n\u0141ukasz"
    with pytest.raises(UserError, match=r"larger than 3 bytes; names are expected"):
        read_text(path, 3, "names")
    path.write_bytes("Ada".encode("utf-16"))
    with pytest.raises(UserError, match=r"not UTF-8 text. Save it as UTF-8"):
        read_text(path, 100, "names")
    with pytest.raises(UserError, match="There is no file"):
        read_text(tmp_path / "absent.txt", 100, "names")
    with pytest.raises(UserError, match="is a folder"):
        read_text(tmp_path, 100, "names")


def test_a_folder_that_is_filled_while_its_successor_is_made_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"it holds thesis\.txt"), folders.new_folder(out) as new:
        (new / "made").write_text("x")
        (out / "thesis.txt").write_text("years of work")
    assert (out / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with folders.new_folder(tmp_path / "link") as new:
        (new / "made").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "made").read_text() == "x"


def test_a_link_that_leads_back_to_itself_is_a_sentence(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with (
        pytest.raises(UserError, match=r"cannot be used|is a link"),
        folders.new_folder(tmp_path / "a"),
    ):
        pass
