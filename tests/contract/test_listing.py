"""The list of methods that is read from their files, without importing them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass

import pytest

from t2i_backdoor_bench.contract import Defense, citations
from t2i_backdoor_bench.contract.listing import KINDS, listed

FACTS = ("needs", "edits", "better", "percent", "title", "short", "group", "apart", "only")


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_is_the_registry(kind: str):
    known = KINDS[kind]
    known.load()
    found = {method.name: method for method in listed(kind)}
    assert list(found) == sorted([*known.entries, *known.compositions])
    for name, entry in known.entries.items():
        method = found[name]
        for fact in FACTS:
            default = entry.__dataclass_fields__[fact].default
            assert method.facts.get(fact, default) == vars(entry)[fact], (name, fact)
        assert method.groups == entry.groups
        assert method.summary == entry.summary
        assert method.doc == inspect.cleandoc(entry.doc)
        assert citations.of_method(method) == citations.of_method(entry)
    for name, (parts, groups) in known.compositions.items():
        assert (found[name].parts, found[name].groups) == (parts, groups)


def test_what_the_process_registered_is_listed(clean_registry):
    @clean_registry.register_defense("of_a_notebook", needs=("stream",), paper="fan2024salun")
    @dataclass
    class OfANotebook(Defense):
        """Does nothing."""

    (found,) = [m for m in listed("defense") if m.name == "of_a_notebook"]
    assert found.summary == "Does nothing."
    assert found.facts["needs"] == ("stream",)
    assert citations.short(found) == "Fan et al. 2024"


def test_it_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from t2i_backdoor_bench.contract.listing import KINDS, listed;"
        "print(min(len(listed(kind)) for kind in KINDS), *sorted({'torch', 'numpy', 'diffusers'}"
        " & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, *heavy = run.stdout.split()
    assert int(number) > 10
    assert heavy == []
