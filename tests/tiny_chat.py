"""Chat LMMs in miniature: the real configuration and processor classes with tiny sizes, random weights, no hub."""

from __future__ import annotations

import sys
from contextlib import suppress

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, SiglipVisionConfig
from transformers import PreTrainedTokenizerFast as Fast
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from evertune.models.compat import _without_video
from evertune.utils.quiet import quiet_libraries

LM = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
PLAIN = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ 'IMAGE\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA-1.5's, in short."""
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The form of Qwen's, InternVL's and (nearly) SmolVLM's."""


def tokenizer(*more, image="<image>", **attributes):
    """Bytes and special tokens: every text can be written."""
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *([image] if image else []), *more]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate([*special, *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = Fast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={**({"image_token": image} if image else {}), **attributes},
    )
    made.add_special_tokens({"additional_special_tokens": special[3:]}, replace_extra_special_tokens=False)
    return made


def _llava(token):
    from transformers import LlavaConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**LM, vocab_size=len(token)),
        image_token_index=token.image_token_id,
        image_seq_length=16,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return (
        config,
        images,
        {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    )


def _tiles(token, config_class):
    return config_class(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**LM, vocab_size=len(token)),
        image_token_index=token.image_token_id,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )


def _llava_next(token):
    from transformers import LlavaNextConfig
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )
    options = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return _tiles(token, LlavaNextConfig), images, options


def _llava_onevision(token):
    from transformers import LlavaOnevisionConfig, Qwen2Config
    from transformers.models.llava_onevision import image_processing_pil_llava_onevision as module

    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=Qwen2Config(**LM, vocab_size=len(token)),
        image_token_index=token.image_token_id,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_feature_select_strategy="full",
    )
    images = module.LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]]
    )
    return config, images, {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}


def _qwen_images(patch):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    side = 2 * patch
    return Qwen2VLImageProcessorPil(
        patch_size=patch, size={"shortest_edge": side * side, "longest_edge": 16 * side * side}
    )


def _qwen_lm(token):
    return {
        "text_config": {
            **LM,
            "vocab_size": len(token),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        "image_token_id": token.image_token_id,
        "video_token_id": token.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": token.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": token.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": False,
    }


def _qwen2_5_vl(token):
    from transformers import Qwen2_5_VLConfig

    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "patch_size": 7,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        },
        **_qwen_lm(token),
    )
    return config, _qwen_images(7), {}


def _qwen2_vl(token):
    from transformers import Qwen2VLConfig

    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 7},
        **_qwen_lm(token),
    )
    return config, _qwen_images(7), {}


def _qwen3_vl(token):
    from transformers import Qwen3VLConfig

    config = Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "patch_size": 8,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **_qwen_lm(token),
    )
    return config, _qwen_images(8), {}


def _idefics(token, config_class, images_class):
    config = config_class(
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        text_config=LlamaConfig(**LM, vocab_size=len(token)),
        image_token_id=token.image_token_id,
        scale_factor=2,
        pad_token_id=token.pad_token_id,
    )
    images = images_class(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True)
    return config, images, {"image_seq_len": 4}


def _idefics3(token):
    from transformers import Idefics3Config
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    return _idefics(token, Idefics3Config, Idefics3ImageProcessorPil)


def _smolvlm(token):
    from transformers import SmolVLMConfig
    from transformers.models.smolvlm import processing_smolvlm
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    if not processing_smolvlm.num2words:  # it spells the length of films; the processor will not begin without it
        processing_smolvlm.num2words = str
    return _idefics(token, SmolVLMConfig, SmolVLMImageProcessorPil)


def _internvl(token):
    from transformers import InternVLConfig, Qwen2Config
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [28, 28], "patch_size": [7, 7], "norm_type": "layer_norm"},
        text_config=Qwen2Config(**LM, vocab_size=len(token)),
        image_token_id=token.image_token_id,
        image_seq_length=4,
    )
    return config, GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}), {"image_seq_length": 4}


def _siglip():
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(size={"height": 28, "width": 28})


def _paligemma(token):
    from transformers import GemmaConfig, PaliGemmaConfig

    images = _siglip()
    images.image_seq_length = 16
    config = PaliGemmaConfig(
        vision_config={**TOWER, "projection_dim": 32, "vision_use_head": False, "model_type": "siglip_vision_model"},
        # its processor adds 1,024 places and 128 segments to the tokenizer
        text_config=GemmaConfig(**{**LM, "tie_word_embeddings": True}, vocab_size=len(token) + 1024 + 128),
        image_token_index=token.image_token_id,
        projection_dim=32,
    )
    return config, images, {}


def _gemma3(token):
    from transformers import Gemma3Config
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    config = Gemma3Config(
        vision_config={**TOWER, "vision_use_head": False},
        text_config={**LM, "vocab_size": len(token), "sliding_window": 64},
        image_token_id=token.image_token_id,
        boi_token_index=token.boi_token_id,
        eoi_token_index=token.eoi_token_id,
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
    )
    return config, Gemma3ImageProcessorPil(size={"height": 28, "width": 28}), {"image_seq_length": 4}


_QWEN = {"image": "<|image_pad|>", "more": ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>")}
_IDEFICS_TOKENS = (
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
)
FAMILIES = {
    "llava": (_llava, {}, PLAIN.replace("IMAGE", "<image>")),
    "qwen2_5_vl": (_qwen2_5_vl, _QWEN, MARKED.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")),
    "smolvlm": (_smolvlm, {"more": _IDEFICS_TOKENS}, MARKED.replace("IMAGE", "<image>")),
    "idefics3": (_idefics3, {"more": _IDEFICS_TOKENS}, MARKED.replace("IMAGE", "<image>")),
    "qwen2_vl": (_qwen2_vl, _QWEN, MARKED.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")),
    "qwen3_vl": (_qwen3_vl, _QWEN, MARKED.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")),
    "llava_next": (_llava_next, {}, PLAIN.replace("IMAGE", "<image>")),
    "llava_onevision": (_llava_onevision, {}, MARKED.replace("IMAGE", "<image>\n")),
    "internvl": (
        _internvl,
        {
            "image": "<IMG_CONTEXT>",
            "more": ("<img>", "</img>", "<video>"),
            "attributes": {
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            },
        },
        MARKED.replace("IMAGE", "<IMG_CONTEXT>\n"),
    ),
    "paligemma": (_paligemma, {}, None),
    "gemma3": (
        _gemma3,
        {
            "image": "<image_soft_token>",
            "more": ("<boi>", "<eoi>"),
            "attributes": {"boi_token": "<boi>", "eoi_token": "<eoi>"},
        },
        "<s>" + MARKED.replace("IMAGE", "<boi>"),
    ),
}


def write_tiny(name, folder):
    """Write a checkpoint folder of the family `name`, with random weights that make differences."""
    quiet_libraries()
    make, special, template = FAMILIES[name]
    attributes = special.get("attributes", {})
    token = tokenizer(*special.get("more", ()), image=special.get("image", "<image>"), **attributes)
    config, images, options = make(token)
    processor = _without_video(PROCESSOR_MAPPING[type(config)])
    parts = [images, token] + ([None] if name == "smolvlm" else [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3 if name == "paligemma" else 0)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():  # large enough that images and words make a difference to what is said
            if parameter.ndim > 1:
                parameter.data.add_(0.15 * torch.randn(parameter.shape))
    for end in ("<|im_end|>", "</s>"):
        with suppress(AttributeError):
            model.generation_config.eos_token_id = token.convert_tokens_to_ids(end)
        if template and end in template:
            break
    if name == "paligemma":  # its processor adds 1,152 control tokens, one of which would always be the likeliest
        model.get_output_embeddings().weight.data[-1152:] = 0
    model.save_pretrained(folder)
    processor(*parts, **options, chat_template=template).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    write_tiny(sys.argv[1], sys.argv[2])
