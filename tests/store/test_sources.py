"""The source files that a number depends on."""

from __future__ import annotations

import sys
from types import ModuleType

from t2i_backdoor_bench.store.sources import changed, file_of, short, sources_of


def test_the_imports_of_a_method_belong_to_it():
    found = {short(m) for m in sources_of(["t2i_backdoor_bench.defenses.uce"])}
    assert {"defenses/uce.py", "bench/training/closed_form.py", "bench/models/model.py"} <= found
    assert not any(p.startswith(("bench/report", "bench/running", "attacks")) for p in found)


def test_methods_do_not_depend_on_each_other():
    found = {short(m) for m in sources_of(["t2i_backdoor_bench.defenses.esd"])}
    assert [p for p in found if p.startswith("defenses/")] == ["defenses/esd.py"]


def test_what_changed_is_what_differs_or_is_gone():
    stored = {"a": "1", "b": "2", "c": "3"}
    assert changed(stored, {"a": "1", "b": "9", "d": "4"}) == ["b", "c"]


def test_what_has_no_file_is_left_out():
    assert sources_of(["__main__.nothing", "t2i_backdoor_bench.no_such_module"]) == {}
    assert file_of("t2i_backdoor_bench.contract").name == "__init__.py"
    assert short("some.other.package") == "some.other.package"


def test_a_method_of_a_notebook_has_no_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "a_notebook", ModuleType("a_notebook"))
    assert "__file__" not in vars(sys.modules["a_notebook"])
    assert sources_of(["a_notebook", __name__]).keys() == {__name__}
