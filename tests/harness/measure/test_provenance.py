import json
from pathlib import Path

import pytest
from support.records import SPEC

from harness import turns
from harness.measure import provenance
from harness.measure.order import WorkerOrder
from harness.patching import MANIFEST


@pytest.mark.parametrize(("binaries", "recorded"), [("2.0", None), ("1.0", "1.0")])
def test_compiled_files_of_another_version_are_recorded(
    tmp_path: Path, binaries: str, recorded: str | None
) -> None:
    (tmp_path / "w.jsonl").write_text("")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / MANIFEST).write_text(json.dumps({"version": "2.0", "binaries": binaries}))
    order = WorkerOrder(
        cells={},
        model=str(tmp_path),
        workload=tmp_path / "w.jsonl",
        patches_sha256="x",
        progress_fd=-1,
        place=turns.Place(number=0, mine=-1, give=()),
    )
    file = str(tmp_path / "vllm" / "__init__.py")
    found = provenance.provenance(SPEC, order, engine_version="2.0", engine_file=file)
    assert found["engine"]["binaries"] == recorded
