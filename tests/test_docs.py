"""What the documentation prints is what the commands print."""

from pathlib import Path

import pytest

from cmai_core import cli

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_recipes_in_the_documentation_are_those_there_are(capsys):
    assert cli.main(["recipes", "--markdown"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert line in (DOCS / "attacks.md").read_text(encoding="utf-8")


def test_the_model_cards_in_the_documentation_are_the_bundled_ones():
    from cmai_core.training.bundle import cards_markdown

    assert (DOCS / "models.md").read_text(encoding="utf-8") == cards_markdown()


def test_every_training_recipe_is_in_the_documentation():
    from cmai_core.training.recipes import RECIPES

    page = (DOCS / "defenses.md").read_text(encoding="utf-8")
    for name, recipe in RECIPES.items():
        assert f"| `{name}` | {recipe.summary} |" in page


def test_the_page_of_results_is_that_of_the_published_ones():
    from cmai_core.comparison.correction import correction_table, correction_words, with_corrections
    from cmai_core.comparison.protocol import PROTOCOL
    from cmai_core.comparison.report import NOTES
    from cmai_core.comparison.results import read_results, stale
    from cmai_core.comparison.run import results_dir
    from cmai_core.comparison.said import filled
    from cmai_core.comparison.tables import clean_table

    results = with_corrections(read_results(results_dir()), results_dir())
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert stale(results) == [] and PROTOCOL.hash in page
    assert clean_table(results, PROTOCOL.base) in page
    assert correction_words(results) in page and correction_table(results) in page
    assert filled((results_dir() / NOTES).read_text(encoding="utf-8"), results).strip() in page
    missing = [f"`{name}`" for name in PROTOCOL.models if name not in results]
    assert not missing or f"**Not measured:** {', '.join(missing)}." in page


PAGES = (
    "README",
    "CONTRIBUTING",
    *(f"docs/{name}" for name in ("attacks", "architecture", "defenses", "evaluation", "results", "security")),
)


@pytest.mark.parametrize("name", [f"{page}.md" for page in PAGES])
def test_links_between_files_lead_somewhere(name):
    import re

    page = DOCS.parent / name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{name} links to {target}, which is not there"
