"""Adapters for vLLM, SGLang and LMDeploy: names and shapes are peft's, products are the run's, the rest is named."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from evertune.cli.models import _show_export
from evertune.cli.options import make_console
from evertune.models import model_folder
from evertune.tools.export import ExportResult, export
from evertune.tools.export.adapters import Adapter
from evertune.tools.export.base import KEY, Base
from evertune.tools.export.servers import COMMANDS, for_server, language_of, loading
from evertune.utils.errors import UserError


@pytest.fixture(scope="module")
def theirs(tiny_chat):
    return AutoModelForImageTextToText.from_pretrained(tiny_chat("llava"), dtype=torch.float32)


def made_of(model, layers):
    """An adapter with random matrices; `layers` has rank and alpha of each."""
    choose, made = torch.Generator().manual_seed(1), Adapter()
    for name, (rank, alpha) in layers.items():
        wide = model.get_submodule(name)
        made.ranks[name], made.alphas[name] = rank, alpha
        made.tensors[f"{KEY}{name}.lora_A.weight"] = torch.randn(rank, wide.in_features, generator=choose)
        made.tensors[f"{KEY}{name}.lora_B.weight"] = torch.randn(wide.out_features, rank, generator=choose)
    return made


def layers_of(model, *ends):
    inside = language_of(model)
    return [name for name, _ in model.named_modules() if name.startswith(inside) and name.endswith(ends)]


def server_files(made, model, folder, base):
    config = made.config(Base(str(base), False), model)
    done = for_server(made, config, model)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(done.config))
    save_file(done.tensors, folder / "adapter_model.safetensors")
    return done


@pytest.mark.parametrize("uneven", [False, True])
def test_peft_has_the_same_names_shapes_and_products(uneven, theirs, tiny_chat, tmp_path):
    names = layers_of(theirs, "q_proj", "down_proj")
    layers = {name: (2 + uneven * (at % 3), 4.0 + uneven * at) for at, name in enumerate(names)}
    made = made_of(theirs, layers)
    done = server_files(made, theirs, tmp_path / "a", tiny_chat("llava"))
    fresh = AutoModelForImageTextToText.from_pretrained(tiny_chat("llava"), dtype=torch.float32)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "a")
    expected = get_peft_model_state_dict(loaded)
    assert all(expected[name].shape == tensor.shape for name, tensor in done.tensors.items())
    assert len(done.tensors) == 2 * len(names) and not done.dropped
    for name in names:
        layer = loaded.base_model.model.get_submodule(name)
        up, down = (made.tensors[f"{KEY}{name}.lora_{part}.weight"] for part in "BA")
        wanted = made.alphas[name] / made.ranks[name] * up @ down
        torch.testing.assert_close(layer.get_delta_weight("default"), wanted, atol=1e-5, rtol=1e-5)
    if not uneven:
        assert all(torch.equal(tensor, made.tensors[name]) for name, tensor in done.tensors.items()), "bitwise"
    others = set(expected) - set(done.tensors)  # towers have layers of the same names
    assert all(not expected[name].any() for name in others if "lora_B" in name)


def test_the_configuration_is_what_these_servers_read(theirs):
    """One rank and one scale, short names of layers, nothing that they refuse (read in their sources)."""
    names = layers_of(theirs, "q_proj", "v_proj")
    made = made_of(theirs, {name: (1 + at, 8.0) for at, name in enumerate(names)})
    config = for_server(made, made.config(Base("a/b", False), theirs), theirs).config
    assert (config["peft_type"], config["base_model_name_or_path"], config["bias"]) == ("LORA", "a/b", "none")
    assert (config["r"], config["lora_alpha"]) == (len(names), len(names)) and config["modules_to_save"] is None
    assert config["target_modules"] == ["q_proj", "v_proj"] and not config["use_dora"] and not config["use_rslora"]
    assert config["rank_pattern"] == config["alpha_pattern"] == {}


def test_what_a_server_drops_is_named(theirs, capsys):
    own = layers_of(theirs, "q_proj")
    tower = [name for name, _ in theirs.named_modules() if "vision_tower" in name and name.endswith("q_proj")]
    made = made_of(theirs, dict.fromkeys([*own, *tower], (2, 4.0)))
    made.whole.add("model.multi_modal_projector.linear_1")
    made.beside["projector.weight"] = torch.zeros(1)
    done = for_server(made, made.config(Base("a/b", False), theirs), theirs)
    assert done.dropped == (
        f"low-rank matrices of {len(tower)} layers in model.vision_tower",
        "model.multi_modal_projector.linear_1, trained whole",
        "projector, which is no part of the library's model",
    )
    assert all(language_of(theirs) in name for name in done.tensors)
    folder = model_folder("random")
    _show_export(make_console(), ExportResult(folder, 1, "a/b", adapters=(folder,) * 2, dropped=done.dropped))
    said = " ".join(capsys.readouterr().out.split())
    assert "2 adapters for peft; base model: a/b" in said
    assert all(f"left out: {what}" in said for what in done.dropped)


def test_nothing_for_a_server_is_an_error(theirs):
    made = made_of(theirs, {})
    made.ranks["model.vision_tower.x"], made.alphas["model.vision_tower.x"] = 2, 4.0
    with pytest.raises(
        UserError, match=r"no low-rank matrix of this run is in the language model.*model\.vision_tower"
    ):
        for_server(made, {}, theirs)
    made.dora = True
    with pytest.raises(UserError, match="DoRA is no sum"):
        for_server(made, {}, theirs)


@pytest.mark.parametrize("server", COMMANDS)
def test_the_card_has_the_command(server, theirs):
    names = layers_of(theirs, "q_proj")
    made = [
        for_server(
            m := made_of(theirs, dict.fromkeys(names, (rank, 4.0))), m.config(Base("a/b", False), theirs), theirs
        )
        for rank in (2, 20)
    ]
    text = loading(server, "a/b", made, ["01-x", "02-y"])
    assert (
        " a/b " in text
        and "`01-x`, `02-y`" in text
        and {"vllm": "-rank 32", "sglang": "-rank 20"}.get(server, "") in text
    )


def test_an_unknown_server(tmp_path):
    with pytest.raises(UserError, match="unknown server 'vlm'.*vllm"):
        export(tmp_path / "run", tmp_path / "out", server="vlm")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 2])
def test_a_run_for_a_server(stage, finished, tmp_path):
    folder = finished("random", "lora")
    done = export(folder, tmp_path / "out", server="vllm", stage=stage)
    assert [path.name for path in done.adapters] == (
        ["02-task-1"] if stage else ["01-task-0", "02-task-1", "03-task-2"]
    )
    assert (
        done.dropped
        and all(each.startswith("projector.") for each in done.dropped)
        and "projector" in (tmp_path / "out" / "README.md").read_text()
    )
    plain = AutoModelForCausalLM.from_pretrained(model_folder("random") / "lm", dtype=torch.float32)
    for path in done.adapters:
        assert {each.name for each in path.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "README.md",
        }
        loaded = PeftModel.from_pretrained(plain, path)
        assert set(get_peft_model_state_dict(loaded)) == set(load_file(path / "adapter_model.safetensors"))
        plain = loaded.unload()
