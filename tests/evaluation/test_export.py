"""The summary table and its files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.export import escape, to_csv, to_json, to_latex
from cmai_core.evaluation.figures.tables import SUMMARY, summary_table


@pytest.fixture
def table(made) -> pd.DataFrame:
    parts = [
        made.clean("1111100000", target="b_1"), made.clean("1" * 10, target="b_1", split="validation"),
        made.attacked("1111100000", "1110000000", source="b_1", target="b_1"),
        made.attacked("1111100000", "0111100000", source="b_1", target="b_1", recipe="apgd"),
        made.attacked("1111100000", "0------000", source="b_1", target="b_1", recipe="fab", epsilon=8.0),
    ]  # fmt: skip
    return summary_table(made.frame(*parts))


def test_the_summary_has_every_share_with_its_counts(table):
    assert list(table.columns) == SUMMARY
    rows = {
        (r.recipe, r.metric, r.epsilon): (r.hits, r.total) for r in table[table["metric"] != "acc_clean"].itertuples()
    }
    assert rows == {
        ("pgd", "acc_robust", 4.0): (3, 10), ("pgd", "asr", 4.0): (2, 5),
        ("apgd", "acc_robust", 4.0): (4, 10), ("apgd", "asr", 4.0): (1, 5),
        ("worst case", "acc_robust", 4.0): (2, 10), ("worst case", "asr", 4.0): (3, 5),
        ("fab", "acc_robust", 8.0): (0, 6), ("fab", "asr", 8.0): (1, 1),
    }  # fmt: skip
    assert table.iloc[0][["recipe", "metric", "hits", "total", "split"]].tolist() == [
        "clean",
        "acc_clean",
        5,
        10,
        "test",
    ]
    assert table[table["recipe"] == "fab"]["value"].isna().all()


def test_scores_join_the_summary_on_request(made):
    clean = made.clean("11", consistency_clean=[0.6, 0.7])
    attack = made.attacked("11", "01", consistency_clean=[0.6, 0.7], consistency=[0.1, 0.8])
    found = summary_table(made.frame(clean, attack), scores=True)
    row = found[found["metric"] == "auroc"].iloc[0]
    assert row.value == 0.5 and row.score == "pair"


def test_attacks_on_texts_alone_have_their_s_c_in_the_summary(made):
    text = {"modality": "text", "norm": None, "epsilon": np.nan, "task": "", "recipe": "char"}
    table = made.frame(
        made.clean("11"), made.attacked("??", "??", consistency_clean=0.6, consistency=[0.2, 0.4], **text)
    )
    found = summary_table(table)
    assert found[["recipe", "metric"]].to_numpy().tolist() == [["char", "consistency"], ["clean", "acc_clean"]]
    assert found["value"].tolist() == pytest.approx([0.3, 1.0])


def test_csv_and_json_come_back(table, tmp_path):
    read = pd.read_csv(to_csv(table, tmp_path / "new" / "t.csv"))
    assert read["hits"].tolist() == table["hits"].tolist()
    assert read["value"].to_numpy() == pytest.approx(table["value"].to_numpy(dtype=float), nan_ok=True)
    text = to_json(
        table.assign(extra=[np.inf, np.nan, pd.NA, None, *[1.5] * (len(table) - 4)]), tmp_path / "t.json"
    ).read_text()

    def refuse(word):
        raise AssertionError(word)

    read = json.loads(text, parse_constant=refuse)
    assert [row["extra"] for row in read["rows"][:5]] == [None, None, None, None, 1.5]
    assert read["columns"] == [*SUMMARY, "extra"] and len(read["rows"]) == len(table)
    assert read["rows"][0]["hits"] == 5 and read["rows"][0]["epsilon"] is None


def test_latex_has_percents_intervals_and_bold(table, tmp_path):
    path = to_latex(
        table,
        tmp_path / "t.tex",
        columns=["target", "recipe", "metric", "value", "n"],
        best="min",
        caption="50 % & more",
    )
    text = path.read_text()
    assert r"\toprule" in text and r"\caption{50 \% \& more}" in text
    worst = next(line for line in text.splitlines() if "worst case" in line and "acc" in line)
    assert worst.startswith(r"b\_1 & worst case & acc\_robust & \textbf{20.0 [") and worst.endswith(r"2/10 \\")
    pgd = next(line for line in text.splitlines() if "& pgd & acc" in line)
    assert "30.0 [" in pgd and "textbf" not in pgd
    fab = next(line for line in text.splitlines() if "& fab & acc" in line)
    assert r"& -- & 0/6 \\" in fab
    assert r"\begin{tabular}{lllrr}" in text


def test_latex_leaves_out_empty_columns_and_refuses_unknown_ones(table, tmp_path):
    head = to_latex(table, tmp_path / "t.tex").read_text().splitlines()[2]
    assert "value" in head and "low" not in head and "hits" not in head
    with pytest.raises(OptionError, match="nothing"):
        to_latex(table, tmp_path / "t.tex", columns=["nothing"])
    with pytest.raises(OptionError, match="'largest'"):
        to_latex(table, tmp_path / "t.tex", best="largest")


def test_escaped_signs_are_printed_as_they_stand(tmp_path):
    assert escape("a_b 5% & {x}\\ #1 $2 ~^ ε") == (
        r"a\_b 5\% \& \{x\}\textbackslash{} \#1 \$2 \textasciitilde{}\textasciicircum{} $\varepsilon$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(table, tmp_path):
    to_latex(table, tmp_path / "t.tex", best="max", caption="A table_1")
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{t}\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_a_file_that_cannot_be_written_leaves_what_was_there(table, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file"))):
        to_csv(table, tmp_path / "file" / "t.csv")
    assert (tmp_path / "file").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1
