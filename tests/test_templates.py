"""Pages from templates: what a template lacks is an error, and empty paragraphs leave no gap."""

from __future__ import annotations

import pytest

from cmai_core.templates import render_markdown


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / f"pages_{tmp_path.name}"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name, folder / "templates" / "page.md.j2"


def test_an_empty_paragraph_leaves_no_gap(package):
    name, page = package
    text = "# {{ title }}\n\n{{ nothing }}\n\n{% if no %}\nhidden\n{% endif %}\n\n| a < b | {{ 1000 | thousands }} |\n"
    page.write_text(text)
    values = {"title": "Über ε", "nothing": "", "no": False}
    assert render_markdown(name, "page.md.j2", **values) == "# Über ε\n\n| a < b | 1,000 |\n"


@pytest.mark.parametrize("missing", ["{{ forgotten }}", "{{ given.forgotten }}"])
def test_a_value_that_a_template_lacks_is_an_error(package, missing):
    from jinja2 import UndefinedError

    name, page = package
    page.write_text(missing)
    with pytest.raises(UndefinedError, match="forgotten"):
        render_markdown(name, "page.md.j2", given={})
