"""Names that plug-ins bring: found without an import, loaded when used, refused when two bring one."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
from plugging import OWN, write_plugin

from evertune.data.formats import FORMATS, format_names, format_of
from evertune.data.stream import STREAMS, stream_file
from evertune.methods import METHODS, make_methods, options_of
from evertune.metrics.rules import RULES, Rule, rule_of
from evertune.models.families import FAMILIES
from evertune.runs.tracking.registry import TRACKERS, refuse_missing
from evertune.utils import source_code
from evertune.utils.errors import UserError
from evertune.utils.plugins import CLASSES, GROUPS, OBJECTS, PluginError, code_of, load_plugin, plugin_flags

METHOD = {"methods": {"own": "own_methods:Own"}}


def test_the_table_of_kinds_names_classes_that_are_there():
    for place, group in {**CLASSES, **OBJECTS}.items():
        module, _, name = place.rpartition(".")
        assert getattr(import_module(module), name).__qualname__ == name
        assert group in GROUPS


def test_a_method_of_a_file(plugged, tmp_path):
    assert load_plugin(write_plugin(tmp_path / "own.py")) == ["own"]
    assert "own" in METHODS and "own" in list(METHODS)
    (method,) = make_methods("own", {"own": {"alpha": "0.5"}})
    assert method.alpha == 0.5
    assert list(options_of("own")) == ["alpha"]
    assert plugin_flags() == ["--plugin", str(tmp_path / "own.py")]


def test_a_method_of_a_package_is_listed_without_an_import(plugged, tmp_path):
    plugged.installed(tmp_path, name="own-methods", entries=METHOD)
    assert "own" in METHODS and "own" in list(METHODS)
    assert code_of("methods", ["own", "replay"]).keys() == {"own"}
    assert "own_methods" not in sys.modules
    assert METHODS["own"].name == "own"
    assert "own_methods" in sys.modules


def test_an_object_of_a_package(plugged, tmp_path):
    plugged.installed(tmp_path, name="own-methods", entries={})
    assert load_plugin("own_methods:Own") == ["own"]
    assert METHODS["own"].__name__ == "Own"


def test_what_fails_to_import_says_whose_it_is_and_where(plugged, tmp_path):
    broken = write_plugin(tmp_path / "broken.py", "import json\n\ndef f():\n    raise OSError('no luck')\n\nf()\n")
    with pytest.raises(PluginError, match=rf"--plugin {broken} can't be imported: OSError: no luck") as caught:
        load_plugin(broken)
    assert 'broken.py", line 6, in <module>' in caught.value.details
    assert "importlib" not in caught.value.details and "utils/plugins.py" not in caught.value.details
    assert plugin_flags() == []


def test_a_broken_package_breaks_only_what_needs_it(plugged, tmp_path):
    plugged.installed(
        tmp_path, name="own-broken", text="import no_such_module", entries={"methods": {"own": "own_broken:X"}}
    )
    assert "own" in METHODS
    assert [method.name for method in make_methods("replay")] == ["replay"]
    with pytest.raises(
        PluginError, match=r"method 'own' of the package own-broken 1\.0 can't be imported: ModuleNot"
    ) as e:
        make_methods("own")
    assert "own_broken/__init__.py" in e.value.details


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("a file", r"'own': one of --plugin .*own\.py, one of the package own-methods 1\.0"),
        ("a package", r"'own': one of the package own-methods 1\.0, one of the package own-others 1\.0"),
    ],
)
def test_two_of_one_name_are_refused(plugged, tmp_path, first, said):
    plugged.installed(tmp_path / "a", name="own-methods", entries=METHOD)
    with pytest.raises(PluginError, match=said):
        if first == "a file":
            load_plugin(write_plugin(tmp_path / "own.py"))
        else:
            plugged.installed(tmp_path / "b", name="own-others", entries={"methods": {"own": "own_others:Own"}})
            make_methods("own")
    assert make_methods("replay")


def test_the_name_of_a_built_in_method_is_refused(plugged, tmp_path):
    text = OWN.replace('"own"', '"replay"')
    with pytest.raises(
        PluginError, match=r"methods are called 'replay': one of evertune itself, one of --plugin .*own"
    ):
        load_plugin(write_plugin(tmp_path / "own.py", text))
    assert METHODS["replay"].__module__ == "evertune.methods.replay"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            OWN.replace('name = "own"', 'name = "own"; protocol = 2'),
            "needs version 2 of the hook protocol; this .* has 1",
        ),
        (OWN.replace('"own"', '"../own"'), "can't be called"),
        (OWN.replace("    about = ", "    other = "), "needs about = evertune.MethodInfo"),
        ("x = 1", "brings nothing that evertune knows"),
    ],
)
def test_what_is_no_usable_method_is_refused_by_name(plugged, tmp_path, text, said):
    with pytest.raises(PluginError, match=said):
        load_plugin(write_plugin(tmp_path / "own.py", text))
    assert plugin_flags() == [] and "own" not in METHODS


def test_a_newer_protocol_of_a_package_is_refused_when_it_is_used(plugged, tmp_path):
    text = OWN.replace('name = "own"', 'name = "own"; protocol = 9')
    plugged.installed(tmp_path, name="own-methods", text=text, entries=METHOD)
    with pytest.raises(
        PluginError, match=r"method 'own' of the package own-methods 1\.0 can't be used: it needs version 9"
    ):
        make_methods("own")


@pytest.mark.parametrize("spec", ["own", "own.txt", "a/b:c", ""])
def test_what_can_be_given(plugged, spec):
    with pytest.raises(PluginError, match=r"write FILE\.py or PACKAGE:NAME"):
        load_plugin(spec)


def test_a_file_that_is_not_there(plugged, tmp_path):
    with pytest.raises(PluginError, match="there is no such file"):
        load_plugin(tmp_path / "none.py")


def test_every_other_group(plugged, tmp_path):
    (tmp_path / "own_all" / "mine.yaml").parent.mkdir()
    (tmp_path / "own_all" / "mine.yaml").write_text("name: mine\ntasks: [{name: a, data: a.jsonl}]\n")
    text = """
    from pathlib import Path
    from evertune.metrics.own_rules import scoring_rule
    from evertune.metrics.rules import RULES, answerwise
    from evertune.models.families import Family
    from evertune.runs.tracking import Tracker

    def same(prediction, golds):
        return float(prediction in golds)

    EVEN = answerwise("even", "equal", same, same)
    RULES.add("odd", answerwise("odd", "added while it is imported", same, same))

    @scoring_rule
    def decorated(prediction, answers):
        return prediction in answers

    giraffe = Family("own_all:load", images_per_sample=range(2))
    MINE = Path(__file__).with_name("mine.yaml")

    class Paper(Tracker):
        name, package, waits = "paper", None, False
        def begin(self, run): return {}
        def log(self, point): pass
        def end(self, *, finished): pass

    class Layout:
        ABOUT, PROMPT = {"title": "mine"}, "{question}"
        @staticmethod
        def rows(place, *, split): yield from ()

    LAYOUT = Layout()
    """
    (tmp_path / "own_all" / "own_all.py").write_text(__import__("textwrap").dedent(text))
    names = load_plugin(tmp_path / "own_all" / "own_all.py")
    assert sorted(names) == ["LAYOUT", "decorated", "even", "giraffe", "mine", "odd", "paper"]
    assert isinstance(rule_of("even"), Rule) and rule_of("odd").about == "added while it is imported"
    assert FAMILIES["giraffe"].images_per_sample == range(2)
    assert stream_file("mine")[0].name == "mine" and "mine" in STREAMS
    assert format_of("LAYOUT").PROMPT == "{question}" and "LAYOUT" in format_names()
    refuse_missing(["paper"])
    assert {RULES.plugin_of("even").source, TRACKERS.plugin_of("paper").source} == {
        f"--plugin {tmp_path / 'own_all' / 'own_all.py'}"
    }


def test_a_module_is_a_format(plugged, tmp_path):
    text = 'ABOUT = {"title": "mine"}\nPROMPT = "{question}"\ndef rows(place, *, split):\n    yield from ()\n'
    assert load_plugin(write_plugin(tmp_path / "my_layout.py", text)) == ["my-layout"]
    assert FORMATS["my-layout"].ABOUT["title"] == "mine"


def test_a_running_program_adds_and_replaces_its_own_only(plugged):
    rule = rule_of("exact")
    for about in ("first", "second"):
        RULES.add("mine", Rule("mine", about, rule.strict, rule.relaxed), made_by=test_a_module_is_a_format)
    assert rule_of("mine").about == "second"
    with pytest.raises(PluginError, match="'exact': one of evertune itself, one of this program"):
        RULES.add("exact", rule)
    assert rule_of("exact") is rule


def test_a_file_that_was_edited_is_loaded_again(plugged, tmp_path):
    path = write_plugin(tmp_path / "own.py")
    load_plugin(path)
    first, before = METHODS["own"], code_of("methods", ["own"])
    load_plugin(path)
    assert METHODS["own"] is first
    write_plugin(path, OWN + "\n# edited\n")
    assert code_of("methods", ["own"]) == before, "what runs is what was loaded"
    load_plugin(path)
    assert METHODS["own"] is not first and code_of("methods", ["own"]) != before


def test_the_code_of_a_package_is_all_its_files(plugged, tmp_path):
    plugged.installed(tmp_path, name="own-methods", entries=METHOD)
    before = code_of("methods", ["own"])
    (tmp_path / "own_methods" / "helper.py").write_text("x = 1\n")
    plugged.forget()
    assert code_of("methods", ["own"])["own"]["code"] != before["own"]["code"]


def test_an_unknown_method_says_how_one_is_brought():
    with pytest.raises(UserError, match=r"unknown method 'unheard-of'.*--plugin FILE\.py"):
        make_methods("unheard-of")  # a name that no other test brings


def test_the_code_of_a_class_is_that_of_its_bases_too(tmp_path, monkeypatch):
    """A constant in another file of the user's decides what the method does; an installed library's does not count."""
    (tmp_path / "basem.py").write_text("class Base:\n    factor = 1\n")
    (tmp_path / "derived.py").write_text("from basem import Base\nclass Derived(Base):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from derived import Derived

    before = source_code.code_of(Derived)
    (tmp_path / "basem.py").write_text("class Base:\n    factor = 2\n")
    assert source_code.code_of(Derived) != before
    for name in ("basem", "derived"):
        monkeypatch.delitem(sys.modules, name)


def test_a_file_that_is_imported_and_loaded_is_one_method(plugged, tmp_path, monkeypatch):
    path = tmp_path / "both.py"
    about = "MethodInfo('x', 'replay')"
    path.write_text(
        f"from evertune import Method, MethodInfo\nclass Both(Method):\n    name, about = 'both', {about}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from both import Both

    METHODS.add("both", Both, made_by=Both)
    assert load_plugin(path) == ["both"] and METHODS["both"].name == "both"
    monkeypatch.delitem(sys.modules, "both")
