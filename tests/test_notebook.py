"""The notebook of examples/ runs from top to bottom, and is kept without outputs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat (pip install -e '.[test]')")
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def test_there_is_one():
    assert NOTEBOOKS or not (ROOT / "docs").is_dir()


def test_it_is_kept_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient (pip install -e '.[test]')")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel (pip install -e '.[test]')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Another test's process may ask for a backend that shows nothing.
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    where = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=250, kernel_name="python3", resources=where)
    client.execute()  # raises where a cell does
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = "".join(output.get("text", "") for output in outputs)
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    assert "S_c" in texts and "image/png" in kinds and "text/html" in kinds
