"""Chat LMMs in miniature, each against the library's own forward and generate from pixels."""

from __future__ import annotations

import pytest
import torch
from chat_models import load, of_library
from PIL import Image
from tiny_chat import FAMILIES

from evertune.data.task import Sample
from evertune.models import compat, load_lmm
from evertune.models.chat import ChatLMM, rows_in, sizes_in
from evertune.models.decoder import IGNORE
from evertune.models.features import FeatureStore
from evertune.models.vision_inputs import CachedTower, Pixels
from evertune.utils.errors import DataError

SIZES = ((48, 48), (90, 40), (33, 70))
ROWS = CachedTower.rows
SEVERAL = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "internvl", "gemma3"]


@pytest.fixture(scope="session")
def imaged(tmp_path_factory):
    """Samples of noisy images of different sizes, each with another instruction."""
    folder = tmp_path_factory.mktemp("noise")
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number, (width, height) in enumerate((*SIZES, *SIZES)):
        path = folder / f"{number}.png"
        noise = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(path)
        samples.append(Sample(str(number), (path,), "what is " + "it " * number + "?", (f"red {number}",), str(path)))
    return samples


@pytest.fixture(params=FAMILIES)
def family(request, tiny_chat):
    return load(tiny_chat(request.param))


@pytest.fixture
def several(tiny_chat):
    return load(tiny_chat("qwen2_5_vl"))


def stored(lmm, samples):
    store = FeatureStore(lmm)
    store.ensure(samples)
    return store


def their_inputs(lmm, processor, sample):
    """Their processor on their template, from the images themselves."""
    images = [Image.open(path).convert("RGB") for path in sample.images]
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": sample.instruction}]
    if processor.chat_template:
        turns = [{"role": "user", "content": content}]
        text = processor.tokenizer.apply_chat_template(
            turns, chat_template=processor.chat_template, add_generation_prompt=True, tokenize=False
        )
    else:
        text = processor.image_token + sample.instruction
    bare = text.startswith("<s>") or not processor.chat_template
    special = {"add_special_tokens": False} if bare else {}
    inputs = processor(text=[text], images=[images], return_tensors="pt", **special)
    inputs.pop("labels", None)
    return inputs


def test_the_label_mask_decodes_to_the_answer(family, imaged):
    store = stored(family, imaged)
    batch = family.collate(imaged, store.get(imaged))
    decode, end = family.prompts.tokenizer.decode, family.prompts.end
    for row, sample in enumerate(imaged):
        labelled = batch.labels[row][batch.labels[row] != IGNORE].tolist()
        assert labelled[-1] == end
        assert decode(labelled[:-1]).strip() == sample.answers[0]
        text = decode(batch.input_ids[row][batch.attention[row] == 1])
        assert text.count(sample.instruction) == 1


def test_an_answer_stands_where_the_template_puts_it(tiny_chat, imaged):
    """LLaVA's template has a blank before the answer, Qwen's has none; both say where it ends."""
    ends = {"llava": "ASSISTANT: red 0</s>", "qwen2_5_vl": "<|im_start|>assistant\nred 0<|im_end|>"}
    for name, end in ends.items():
        lmm = load(tiny_chat(name))
        batch = lmm.collate(imaged[:1], stored(lmm, imaged).get(imaged[:1]))
        assert lmm.prompts.tokenizer.decode(batch.input_ids[0]).endswith(end)


def test_visual_tokens_are_those_of_the_library(family, imaged, tiny_chat):
    """In their order, and for Qwen3-VL of every merger; half precision lies between them."""
    model, _ = of_library(tiny_chat(family.model.config.model_type))
    for sample in imaged[:3]:
        image = Image.open(sample.images[0]).convert("RGB")
        features = family.encode([image])[0][None]
        with torch.no_grad():
            theirs = model.model.get_image_features(**family.prompts.pixels(image))
            ours = family._kind.connector.tokens(family._base(), rows_in(features), sizes_in(features))
        pairs = [(ours.pooler_output, theirs.pooler_output)]
        pairs += zip(*(getattr(made, "deepstack_features", ()) for made in (ours, theirs)), strict=True)
        for pair in pairs:
            own, other = (torch.cat(list(part)).flatten(0, -2) for part in pair)
            torch.testing.assert_close(own, other, rtol=0.01, atol=0.01 * float(other.std()))
            assert (other[0] - other[1]).abs().max() > 0.05 * other.std(), "equal tokens say nothing about their order"


def test_loss_and_prompt_are_those_of_the_library(family, imaged, tiny_chat):
    """From pixels with their processor, against ours from stored features; half precision lies between them."""
    model, processor = of_library(tiny_chat(family.model.config.model_type))
    store = stored(family, imaged)
    for sample in imaged[:3]:
        inputs = their_inputs(family, processor, sample)
        batch = family.collate([sample], store.get([sample]))
        answer = batch.labels[batch.labels != IGNORE][None]
        prompt = inputs["input_ids"]
        assert batch.input_ids[0].tolist() == [*prompt[0].tolist(), *answer[0].tolist()]
        whole = {"input_ids": batch.input_ids, "attention_mask": torch.ones_like(batch.input_ids)}
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                fill = 1 if family.model.config.model_type == "paligemma" else 0
                whole[name] = torch.cat([inputs[name], torch.full_like(answer, fill)], 1)
        with torch.no_grad():
            logits = model(**{**inputs, **whole}).logits[0, -len(answer[0]) - 1 : -1]
            expected = torch.nn.functional.cross_entropy(logits, answer[0])
            ours = family(batch).loss
        torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_answers_are_those_of_the_library(family, imaged, tiny_chat):
    model, processor = of_library(tiny_chat(family.model.config.model_type))
    store = stored(family, imaged)
    ours = family.generate(store.get(imaged), [s.instruction for s in imaged], max_new_tokens=5)
    messages = []
    end = family.prompts.end
    for sample in imaged:
        inputs = their_inputs(family, processor, sample)
        made = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=end, pad_token_id=end)
        new = made[0, inputs["input_ids"].shape[1] :]
        messages.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert ours == messages
    assert len(set(ours)) > 1, "a model that always says the same proves nothing"


def test_batch_size_never_changes_an_answer_or_a_loss(family, imaged):
    store = stored(family, imaged)
    ask = [s.instruction for s in imaged]
    together = family.generate(store.get(imaged), ask, max_new_tokens=5)
    alone = [family.generate(store.get([s]), [s.instruction], max_new_tokens=5)[0] for s in imaged]
    assert together == alone
    with torch.no_grad():
        nll = family(family.collate(imaged, store.get(imaged))).nll
        for row, sample in enumerate(imaged):
            one = family(family.collate([sample], store.get([sample]))).nll[0]
            torch.testing.assert_close(one, nll[row], rtol=1e-4, atol=1e-4)


def test_the_image_changes_what_is_said_to_be_likely(family, imaged):
    store = stored(family, imaged)
    one, other = imaged[0], imaged[3]  # the same size
    with torch.no_grad():
        own = family(family.collate([one], store.get([one]))).nll
        wrong = family(family.collate([one], store.get([other]))).nll
    assert abs(float(own - wrong)) > 1e-4


def test_stored_features_are_those_of_the_images(family, imaged):
    store = stored(family, imaged)
    found = store.get(imaged)
    assert sizes_in(found) == [(height, width) for width, height in (*SIZES, *SIZES)]
    for sample, rows in zip(imaged, rows_in(found), strict=True):
        fresh = family.encode([Image.open(sample.images[0]).convert("RGB")])[0]
        torch.testing.assert_close(fresh[1:], rows, rtol=2e-3, atol=2e-3)  # float16, stored ones were made in a batch
    again = FeatureStore(family)  # from disk
    assert torch.equal(again.get(imaged), found)
    assert torch.isfinite(family.embed_images(found)).all()


@pytest.mark.parametrize("name", SEVERAL)
def test_several_images(name, tiny_chat, imaged):
    """Two images and one in one batch: as the library has it, and as each of them alone."""
    family = load(tiny_chat(name))
    two = Sample("two", (imaged[0].images[0], imaged[1].images[0]), "which?", ("both",), "two")
    model, processor = of_library(tiny_chat(name))
    samples = [imaged[2], two]
    store = stored(family, samples)
    together = family.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=5, images=[1, 2])
    inputs = their_inputs(family, processor, two)
    end = family.prompts.end
    made = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=end, pad_token_id=end)
    new = made[0, inputs["input_ids"].shape[1] :]
    assert together[1] == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    with torch.no_grad():
        nll = family(family.collate(samples, store.get(samples))).nll
        alone = family(family.collate([two], store.get([two]))).nll[0]
    torch.testing.assert_close(alone, nll[1], rtol=1e-4, atol=1e-4)


def test_a_image_token_in_an_instruction(several, imaged):
    sample = Sample("x", imaged[0].images, "is <|image_pad|> it?", ("no",), "x")
    with pytest.raises(DataError, match="holds '<|image_pad|>'"):
        several.collate([sample], stored(several, imaged).get([sample]))


@pytest.fixture
def no_way_in(monkeypatch):
    """A library that has changed where evertune enters it: the connector is not found under its name any more."""

    def gone(*_):
        raise AttributeError("no multi_modal_projector here")

    monkeypatch.setattr(CachedTower, "rows", gone)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_way_in_behind_the_tower_images_go_through_the_whole_model(name, tiny_chat, imaged, no_way_in):
    """One warning at loading; loss, gradients and answers are those of the library from pixels."""
    with pytest.warns(UserWarning, match=r"transformers 5\.\d+.*no multi_modal_projector here.*slower") as messages:
        lmm = load(tiny_chat(name))
    assert len([w for w in messages if "transformers" in str(w.message)]) == 1
    model, processor = of_library(tiny_chat(name))
    store = stored(lmm, imaged)
    samples = imaged[:3]
    ours = lmm.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=3)
    for sample, answer in zip(samples, ours, strict=True):
        inputs = their_inputs(lmm, processor, sample)
        made = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, eos_token_id=lmm.prompts.end, pad_token_id=lmm.prompts.end
        )
        assert (
            answer == processor.tokenizer.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip()
        )
    loss = lmm(lmm.collate(samples, store.get(samples))).loss
    loss.backward()
    gradients = {n: p.grad for n, p in lmm.trainable().items()}
    with pytest.MonkeyPatch.context() as back:
        back.setattr(CachedTower, "rows", ROWS)
        cut = load(tiny_chat(name))
        kept = stored(cut, samples)
        other = cut(cut.collate(samples, kept.get(samples))).loss
        other.backward()
    assert loss.item() == pytest.approx(other.item(), abs=2e-3)
    for parameter, grad in cut.trainable().items():
        torch.testing.assert_close(gradients[parameter], grad.grad, rtol=0.05, atol=0.02 * float(grad.grad.abs().max()))
    assert lmm.embed_images(store.get(samples)).shape[0] == 3
    assert lmm.encoder_fingerprint != cut.encoder_fingerprint


def test_bfloat16_towers_without_a_way_in(tiny_chat, imaged, no_way_in):
    """The connector trains in float32 behind a tower in bfloat16."""
    for name in ("llava", "qwen2_5_vl", "gemma3"):
        with pytest.warns(UserWarning, match="slower"):
            lmm = load_lmm(str(tiny_chat(name)), dtype="bfloat16", device=torch.device("cpu"))
        loss = lmm(lmm.collate(imaged[:2], stored(lmm, imaged[:2]).get(imaged[:2]))).loss
        loss.backward()
        assert all(p.grad is not None for n, p in lmm.trainable().items() if "multi_modal" in n or "merger" in n)


def test_an_untested_version_is_probed_with_an_answer(tiny_chat, monkeypatch):
    """So that what 5.24 broke, generation alone, falls back instead of ending a run at its first answer."""
    monkeypatch.setattr(compat, "TESTED", ("5.0",))
    load(tiny_chat("llava"))

    def broken(*_, **__):
        raise AttributeError("'types.SimpleNamespace' object has no attribute 'to_tuple'")

    monkeypatch.setattr(ChatLMM, "generate", broken)
    with pytest.warns(UserWarning, match="to_tuple"):
        assert isinstance(load(tiny_chat("llava"))._inputs, Pixels)


def test_kept_rows_in_another_order_are_noticed(tiny_chat, monkeypatch):
    monkeypatch.setattr(CachedTower, "rows", lambda *a: [rows.flip(0) for rows in ROWS(*a)])
    with pytest.warns(UserWarning, match="not those of the library"):
        load(tiny_chat("llava"))
