"""Self-checks, figures and training recipes of another installed package stand beside the project's own."""

from __future__ import annotations

import sys
import textwrap

import pytest

from cmai_core.evaluation.checks import from_predictions, probing
from cmai_core.evaluation.checks.check import Check
from cmai_core.registry import Registry
from cmai_core.training import recipes


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a module with entry points; gives the registry of a group as a new process would have it."""

    def install(group: str, name: str, code: str, registry: Registry) -> Registry:
        own = dict(registry)  # before there is anything to discover
        module = f"package_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{module}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:part\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        assert registry.group == group
        return Registry(registry.kind, group, own, registry._refuse)

    return install


def test_a_check_of_another_package_is_made(made, package, monkeypatch):
    code = """
        from cmai_core.evaluation.checks.check import Check

        def part(rows):
            return Check("few rows", "warn", f"{len(rows.frame)} rows.")
    """
    monkeypatch.setattr(from_predictions, "CHECKS", package("cmai.checks", "few-rows", code, from_predictions.CHECKS))
    table = made.frame(made.clean("11"), made.attacked("11", "01"))
    found = from_predictions.check_predictions(table)
    assert found[-1] == Check("few rows", "warn", "4 rows.")


def test_a_probe_of_another_package_has_a_name_that_can_be_asked_for(package, monkeypatch):
    code = "def part(bench): ..."
    monkeypatch.setattr(probing, "PROBES", package("cmai.probes", "mine", code, probing.PROBES))
    assert "mine" in probing.probe_names()


def test_a_training_recipe_of_another_package_is_found(package, monkeypatch):
    code = """
        from cmai_core.training.recipes import get_recipe

        part = get_recipe("tecoa", name="mine", model_name="tabletop-mine")
    """
    monkeypatch.setattr(recipes, "RECIPES", package("cmai.recipes", "mine", code, recipes.RECIPES))
    assert recipes.get_recipe("mine", pairs=7).pairs == 7


@pytest.mark.parametrize("code", ["part = 7", "from cmai_core.training.recipes import _BASE as part"])
def test_what_is_no_training_recipe_is_left_out_with_a_warning(package, code):
    registry = package("cmai.recipes", "mine", code, recipes.RECIPES)
    with pytest.warns(UserWarning, match="mine"):
        assert "mine" not in registry
