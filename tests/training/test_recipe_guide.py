"""The explanation of recipes and new ones: made from the code that reads recipes, so nothing is left out."""

import re

import pytest

from sr_deploy.training.nets import NETS
from sr_deploy.training.recipe import KEYS, SCALES, TERMS, parse_recipe
from sr_deploy.training.recipe_guide import _arguments, _entries, explain, new_recipe
from sr_deploy.training.run.trainer import check_crops
from tests.paths import ROOT


def test_every_key_is_explained():
    text = explain()
    keys = {key for table in KEYS.values() for key in table} - {"net", "phase", "perceptual", "export"}
    keys |= {name for net in NETS.values() for name in (entry.key for entry in _arguments(net))} | set(TERMS)
    assert [key for key in sorted(keys) if not re.search(rf"^  {key}[ :].*\w", text, re.MULTILINE)] == []
    assert "learning_rate (number, default 0.001): Highest learning rate." in text
    assert max(map(len, text.splitlines())) <= 100


def test_every_key_has_a_meaning():
    from sr_deploy.training.data.degrade import Degradation
    from sr_deploy.training.recipe import ExportSettings, Perceptual, Phase, Recipe

    kinds = {
        "recipe": Recipe,
        "phase": Phase,
        "degrade": Degradation,
        "perceptual": Perceptual,
        "export": ExportSettings,
    }
    assert set(kinds) == set(KEYS)
    tables = {"perceptual", "export"}
    for table, kind in kinds.items():
        assert [e.key for e in _entries(table, kind) if not e.meaning and e.key not in tables] == []


@pytest.mark.parametrize("architecture", NETS)
@pytest.mark.parametrize("scale", SCALES)
def test_a_new_recipe_can_be_trained_and_shows_every_key(architecture, scale):
    text = new_recipe('mine "x"', architecture, scale)
    recipe = parse_recipe(text.encode())
    check_crops(recipe)
    assert (recipe.name, recipe.architecture, recipe.scale) == ('mine "x"', architecture, scale)
    for table in ("recipe", "phase", "perceptual", "export"):
        for key in set(KEYS[table]) - {"net", "phase", "perceptual", "export"}:
            assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), key
    for entry in _arguments(NETS[architecture]):
        assert re.search(rf"^(# )?{entry.key} = ", text, re.MULTILINE), entry.key


def test_what_a_new_recipe_shows_as_a_default_is_one():
    text = new_recipe("mine", "rt", 4)
    plain = re.sub(r"^# (?!large_crop|degrade)(\w+ = )", r"\1", text, flags=re.MULTILINE)
    ours, theirs = parse_recipe(plain.encode()), parse_recipe(text.encode())
    assert ours.phases == theirs.phases
    assert (ours.perceptual, ours.export, ours.sizes, ours.seed) == (
        theirs.perceptual,
        theirs.export,
        theirs.sizes,
        theirs.seed,
    )
    assert dict(ours.parameters) | dict(theirs.parameters) == dict(ours.parameters)


def test_the_page_has_every_term():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    assert [term for term in TERMS if f"`{term}`" not in rows] == []
