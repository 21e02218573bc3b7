import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from workloads.file import WorkloadError
from workloads.formats import source
from workloads.formats.asked import BadRecord, Record, Unusable
from workloads.formats.source import Place, Records

_RECORDS: list[dict[str, Any]] = [{"a": i, "b": "x\u2028é🙂 ]}," * (i % 3)} for i in range(40)]


def _lines(end: str = "\n") -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + end for record in _RECORDS)


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("log.jsonl"))
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # A name that tells nothing.
    return tmp_path / "log"


_CONTENTS = {
    "lines": _lines().encode(),
    "no last line break": _lines().rstrip("\n").encode(),
    "blank lines": f"\n \n{_lines(chr(10) * 2)}\n\n".encode(),
    "CRLF": _lines("\r\n").encode(),
    "BOM": b"\xef\xbb\xbf" + _lines().encode(),
    "array": json.dumps(_RECORDS).encode(),
    "array in lines": json.dumps(_RECORDS, indent=1, ensure_ascii=False).encode() + b"\n\n",
    "array with BOM": b"\xef\xbb\xbf\n" + json.dumps(_RECORDS).encode(),
}


@pytest.mark.parametrize("packed", [bytes, gzip.compress, _zstd])
@pytest.mark.parametrize("kind", _CONTENTS)
def test_the_same_records_however_they_are_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packed: Any
) -> None:
    path.write_bytes(packed(_CONTENTS[kind]))
    for chunk in (1, 7, 1 << 20):
        monkeypatch.setattr(source, "_CHUNK_BYTES", chunk)
        assert [record for _, record in source.records(path)] == _RECORDS


def test_place_is_the_line_and_in_an_array_the_record(path: Path) -> None:
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [place for place, _ in source.records(path)] == [Place(2), Place(4)]
    path.write_text('\n[{"a": 1}, {"a":\n2},\n\n{"a": 3}]')
    assert [place for place, _ in source.records(path)] == [Place(2, 1), Place(2, 2), Place(5, 3)]
    assert str(Place(2)) == "line 2"
    assert str(Place(5, 3)) == "line 5, record 3"


def test_rows_of_csv_have_the_names_of_its_first_line(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbfa, b c\r\n1,"x\r\ny"\r\n2,\r\n')
    assert list(source.records(path)) == [
        (Place(3), {"a": "1", "b c": "x\r\ny"}),
        (Place(4), {"a": "2", "b c": ""}),
    ]


def test_rows_of_parquet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_BATCH_ROWS", 7)
    parquet.write_table(pa.Table.from_pylist(_RECORDS), path)
    found = list(source.records(path))
    assert [record for _, record in found] == _RECORDS
    assert [place.line for place, _ in found] == list(range(1, 41))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WorkloadError, match=r"cut off or damaged: .*: get the whole file"):
        list(source.records(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "an empty file"),
        (b"\n\n", "an empty file"),
        (b"[]", "an empty file"),
        ("{}".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        (
            gzip.compress(_lines().encode() * 99, mtime=0)[:-20],
            "cut off or damaged: .*: get the whole file",
        ),
        (b"\x1f\x8bnonsense", "cut off or damaged: .*: get the whole file"),
        (_zstd(_lines().encode() * 99)[:50], "cut off or damaged: .*: get the whole file"),
        (b"\x28\xb5\x2f\xfdnonsense", "cut off or damaged: .*: get the whole file"),
        (b"PK\x03\x04nonsense", "is packed with zip, .*: unpack it"),
        (bz2.compress(b"{}"), "is packed with bzip2"),
        (lzma.compress(b"{}"), "is packed with xz"),
        (gzip.compress(_tar(), mtime=0), "is a tar archive: take the log out"),
        (b'[{"a": "\xff"}]', "not UTF-8: .*: save it as UTF-8"),
        (b'[{"a": 1},\n {"a": }]', "line 2, record 2: not JSON: .* in '"),
        (b'[{"a": 1}] {}', "line 1: after the end of the array is b'{}'"),
        (b"a,b\n\xff,1\n", "not UTF-8"),
        (b'a,b\n1,2\n"x"y,2\n', "line 3: not CSV"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(path: Path, content: Any, reason: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkloadError, match=reason) as raised:
        list(source.records(path))
    assert str(path) in str(raised.value)


def test_what_is_no_file_is_refused_and_not_waited_for(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(WorkloadError, match="log: is no file, but a pipe"):
        list(source.records(path))
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(WorkloadError, match="log: a link to nowhere, which is not there"):
        list(source.records(path))
    with pytest.raises(WorkloadError, match="is a folder: name a log that is in it"):
        list(source.records(tmp_path))


def test_why_a_file_cannot_be_looked_at_is_said(path: Path) -> None:
    path.touch()
    with pytest.raises(WorkloadError, match="log/in: Not a directory: name a log that is there"):
        list(source.records(path / "in"))


def _read(record: Record) -> list[Any]:
    if record["a"] == 0:
        raise Unusable("records with nothing")
    if record["a"] < 0:
        raise BadRecord(f"a: {record['a']}")
    return [record["a"]]


_BAD = b'{"a": 1}\n{"a": -1}\n{"a"\n{"a": 0}\n7\n{"a": "\xff"}\n{"a": 2}\n'


def test_bad_records_are_refused_or_left_out_and_counted(path: Path) -> None:
    path.write_bytes(_BAD)
    for allowed, reason in enumerate(
        [
            "log, line 2: a: -1; mend it, or say `skip_bad` .SKIP_BAD=. to leave out so many$",
            r"line 3: not JSON: EOF .*, in '{\"a\"' \(bad record 2; skip_bad allows 1\)$",
            "line 5: 7 should be an object",
            "line 6: not UTF-8",
        ]
    ):
        with pytest.raises(WorkloadError, match=reason):
            list(Records(path, _read, allowed))
    with pytest.raises(WorkloadError, match=r"log, line 2: a: -1$"):
        list(Records(path, _read))
    records = Records(path, _read, 4)
    assert list(records) == [(Place(1), 1), (Place(7), 2)]
    assert records.notes == [
        "records with nothing left out: 1",
        "bad records left out: 4, the first at line 2: a: -1",
    ]


def test_an_array_that_is_cut_off_is_a_bad_record_or_allowed(path: Path) -> None:
    path.write_text('[{"a": 1}, {"a": 2}, {"a"')
    with pytest.raises(WorkloadError, match="line 1, record 3: the array is cut off here: get"):
        list(Records(path, _read))
    assert len(list(Records(path, _read, 1))) == 2
    records = Records(path, _read, may_be_cut_off=True)
    assert len(list(records)) == 2
    assert (records.is_cut_off, records.read, records.notes) == (True, 2, [])
