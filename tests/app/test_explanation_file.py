"""The bundled explanation is of the bundled example and its models, and is read as it was written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cmai_core.errors import DataError
from cmai_core.lab import explanation_tables as tables
from cmai_core.lab.explanation_file import bundled_path, read_explanation, write_explanation
from cmai_core.lab.verdict import content_key
from cmai_core.showcase import load_showcase


@pytest.fixture(scope="module")
def made():
    return read_explanation(bundled_path())


def test_it_is_of_the_bundled_example(made):
    result = load_showcase().result
    assert made.experiment == result.experiment and made.key == content_key(result)
    assert set(made.roles) == set(result.attacked)
    for role, explained in made.roles.items():
        example = result.example_for(role)
        assert np.array_equal(explained.adversarial, example.adversarial)
        scores = result.predictions[role].clean, result.predictions[role].adversarial
        np.testing.assert_allclose(explained.maps["relevance"].score[:2], scores, atol=2e-3)  # half precision
        assert explained.trace.denoising.everything == pytest.approx(1, abs=1e-2)


def test_what_is_written_is_read_again(made, tmp_path):
    write_explanation(made, tmp_path / "made.json")
    again = read_explanation(tmp_path / "made.json")
    assert again.experiment == made.experiment and again.scales == made.scales
    for role, explained in made.roles.items():
        np.testing.assert_array_equal(again.roles[role].trace.maps(), explained.trace.maps())
        assert again.roles[role].written.words == explained.written.words
    (tmp_path / "broken.json").write_text('{"@": "LabExplanation"}')
    with pytest.raises(DataError, match="cannot be read"):
        read_explanation(tmp_path / "broken.json")


def test_tables_hold_what_the_pictures_show(made):
    explained = made.roles["A"]
    rows = tables.map_rows(made, "relevance")
    first = next(row for row in rows if row["model"] == "A")
    assert first["clean"] == pytest.approx(float(explained.maps["relevance"].map[0, 0, 0]))
    total = sum(row["attention"] for row in tables.said_rows(made, 0) if row["model"] == "A")
    assert total == pytest.approx(sum(float(m.sum()) for m in explained.said.word_maps[0]), rel=1e-3)
    peak = max(tables.words_at(explained, 0, 3, 3), key=lambda pair: pair[1])
    assert tables.words_at(explained, 0, 3, 3)[0] == peak
    effects = [row for row in tables.trace_rows(made) if row["state"] == "all patches" and row["model"] == "A"]
    assert len(effects) == 2 * (explained.trace.depth + 1)
    assert np.abs(explained.trace.maps()).max() <= tables.trace_scale(made, "denoising")
    assert len(tables.head_rows(made)) == sum(2 * e.heads.shape[1] * e.heads.shape[2] for e in made.roles.values())


def test_it_opens_without_torch():
    code = (
        "import sys\nfrom cmai_core.lab.explanation_file import *\nread_explanation(bundled_path())\n"
        "import cmai_core.lab.explanation_tables\nprint('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
