"""The formats by name: how a project's gold file is read, what we score it by, and who else scores it how."""

from __future__ import annotations

from dataclasses import dataclass

from evertune.tools.rescore import gold, peers
from evertune.tools.rescore.peers import Peer
from evertune.utils.errors import unknown


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of gold and answers.

    Attributes:
        title: data set and project.
        rules: our scores, the main one first; its answers are compared with theirs one by one.
        peers: public evaluators of such files.
        by_line: captions may be matched with images by line.
    """

    name: str
    title: str
    read: gold.Reader
    rules: tuple[str, ...]
    peers: tuple[Peer, ...] = ()
    by_line: bool = False


def _equal(source: str) -> Peer:
    return Peer("equal", source, "equal to the one answer, case aside", peers.same_letters, one_answer=True)


def _letters(source: str) -> Peer:
    does = "equal after dropping all but English letters and digits"
    return Peer("letters", source, does, peers.letters_and_digits, one_answer=True)


_PLACE = Peer(
    "either within",
    "CoIN eval_ImagetNet.py",
    "one text is a part of the other; the n-th line goes with the n-th question",
    peers.either_within,
    by_place=True,
)
_PLACE_QWEN = Peer(
    "either within, case aside",
    "CoIN Qwen/eval_ImagetNet.py",
    "the same, case and one space at the front aside",
    peers.either_within_lower,
    by_place=True,
)
_PLACE_CVIT = Peer(
    "either within",
    "SMoLoRA eval_classification.py",
    "one text is a part of the other, any answer; the n-th line goes with the n-th question",
    peers.any_either_within,
    by_place=True,
)
_M4C = Peer("m4c", "CoIN m4c_evaluator.py", "soft accuracy over ten annotators", peers.m4c)
_GQA = Peer(
    "converted",
    "CoIN convert_gqa_for_eval.py, eval_gqa.py",
    "equal; final periods and capitals go from the prediction",
    peers.gqa_converted,
    because="white space counts for them, and capitals and periods of the gold",
)
_BOX = Peer(
    "cut box",
    "CoIN eval_grounding.py",
    "IoU > 0.5 of a box that lost its first and last character",
    peers.cut_box,
    because="the first and the last character of the box are lost for them, and brackets are not required",
)
_SCIENCE = Peer(
    "lone letter",
    "CoIN eval_science_qa.py",
    "the letter, `B. `, or the first word of one character",
    peers.lone_letter,
    because="the first lone character of the answer is the option for them",
    counts_missing=True,
)
_OCRVQA = Peer(
    "equal",
    "CoIN eval_ocrvqa.py",
    "equal, case aside; wrong with 'Unanswerable' in it; reports 'Samples: 0'",
    peers.lower_unless_unanswerable,
    one_answer=True,
    wrong_word=peers.UNANSWERABLE,
)
_WITHIN = Peer(
    "within gold",
    "UCIT eval_deepseek_r1.py (containment)",
    "the prediction is a part of the answer; yes is true, no is false",
    peers.within_gold,
)
_SEVEN = Peer(
    "average of seven",
    "UCIT eval_caption.py",
    "mean of BLEU-1..4, METEOR, ROUGE-L and CIDEr; captions go to images by line",
    None,
    whole=peers.average_of_seven,
    by_place=True,
)
_BEST = Peer(
    "best reference",
    "SMoLoRA eval_flickr30k_cider.py",
    "CIDEr against the nearest reference only, the two sides exchanged",
    None,
    whole=peers.best_reference,
)
_MED = Peer(
    "gold within",
    "MLLM-CL eval_pvqa.py",
    "the answer is a part of the prediction; wrong with 'Unanswerable' in it",
    peers.gold_within_unless_unanswerable,
    wrong_word=peers.UNANSWERABLE,
)
_FIN = Peer(
    "equal",
    "MLLM-CL eval_finvis.py",
    "equal, case aside; wrong with 'Unanswerable' in it",
    peers.lower_unless_unanswerable,
    one_answer=True,
    wrong_word=peers.UNANSWERABLE,
)
_SCI = Peer(
    "by image",
    "MLLM-CL eval_sci.py",
    "equal, or for maps a part, or the share of the states; wrong with 'Unanswerable' in it",
    peers.science_of_mllm_cl,
    wrong_word=peers.UNANSWERABLE,
)
_VP = Peer(
    "gold within",
    "MLLM-CL eval_sat.py",
    "the answer is a part of the prediction once spaces and periods are gone",
    peers.gold_within_without_spaces,
)
_OCR = Peer("gold within", "MLLM-CL eval_ocr.py", "an answer is a part of the prediction", peers.ocrbench)
_OCR_FINAL = Peer(
    "final score",
    "MLLM-CL eval_ocr.py",
    "right answers / 10, a percentage for 1,000 questions only",
    None,
    whole=peers.thousand,
)
_VQA = Peer(
    "official",
    "GT-Vision-Lab/VQA vqaEval.py",
    "soft accuracy; normalised only where annotators differ",
    peers.vqa_official,
    because="nothing is normalised for them where all annotators say the same",
)
_VIZWIZ = Peer(
    "official",
    "VizWiz vqaEval.py",
    "soft accuracy; only the prediction is normalised",
    peers.vizwiz_official,
    because="the annotators' answers are not normalised for them",
)

CAPTION_RULES = ("cider", "bleu-1", "bleu-2", "bleu-3", "bleu-4", "rouge-l")
FORMATS = {
    one.name: one
    for one in (
        Format("plain", "question_id and answer(s), no other evaluator", gold.questions, ("exact",)),
        Format("coin-scienceqa", "ScienceQA in CoIN", gold.scienceqa, ("scienceqa",), (_SCIENCE,)),
        Format("coin-textvqa", "TextVQA in CoIN", gold.textvqa, ("textvqa", "vqa"), (_M4C,)),
        Format("coin-imagenet", "ImageNet in CoIN", gold.questions, ("normalised",), (_PLACE, _PLACE_QWEN)),
        Format("coin-gqa", "GQA in CoIN", gold.gqa, ("gqa", "normalised"), (_GQA,)),
        Format("coin-vizwiz", "VizWiz in CoIN, one answer", gold.questions, ("vqa",), (_equal("CoIN eval_vizwiz.py"),)),
        Format("coin-grounding", "RefCOCO boxes in CoIN", gold.grounding, ("box",), (_BOX,)),
        Format(
            "coin-vqav2",
            "VQAv2 in CoIN, one answer",
            gold.questions,
            ("vqa",),
            (_equal("CoIN eval_vqav2.py"), _letters("MLLM-CL eval_vqav2.py")),
        ),
        Format("coin-ocrvqa", "OCR-VQA in CoIN", gold.questions, ("ocrvqa", "normalised"), (_OCRVQA,)),
        Format(
            "ucit",
            "ImageNet-R, ArxivQA, IconQA, CLEVR-Math in UCIT",
            gold.questions,
            ("normalised",),
            (_equal("UCIT eval_deepseek_r1.py (equality)"), _WITHIN),
        ),
        Format(
            "ucit-caption", "VizWiz and Flickr30k captions in UCIT", gold.coco, CAPTION_RULES, (_SEVEN,), by_line=True
        ),
        Format("mllm-cl-med", "medicine (PathVQA) in MLLM-CL", gold.questions, ("normalised",), (_MED,)),
        Format("mllm-cl-fin", "finance in MLLM-CL", gold.questions, ("normalised",), (_FIN,)),
        Format("mllm-cl-sci", "science in MLLM-CL", gold.questions, ("normalised",), (_SCI,)),
        Format("mllm-cl-vp", "visual perception (CV-Bench) in MLLM-CL", gold.questions, ("normalised",), (_VP,)),
        Format("mllm-cl-ocr", "OCRBench in MLLM-CL", gold.questions, ("anls", "exact"), (_OCR, _OCR_FINAL)),
        Format("cvit-classification", "ImageNet and Places365 in CVIT", gold.questions, ("exact",), (_PLACE_CVIT,)),
        Format("cvit-caption", "Flickr30k and TextCaps in CVIT", gold.questions, CAPTION_RULES, (_BEST,)),
        Format("vqav2", "VQAv2, the official annotations", gold.vqav2, ("vqa",), (_VQA,)),
        Format("pope", "POPE", gold.published("pope"), ("pope", "pope-f1", "pope-yes-ratio")),
        Format("mme", "MME, a folder per ability", gold.published("mme"), ("mme", "mme-plus")),
        Format("mmbench", "MMBench, every order of the options", gold.published("mmbench"), ("circular", "choice")),
        Format(
            "mmbench-once", "MMBench, as its table has them", gold.published("mmbench", circular=False), ("choice",)
        ),
        Format("seed-bench", "SEED-Bench, images", gold.published("seed-bench"), ("choice",)),
        Format("vizwiz", "VizWiz, the official annotations", gold.questions, ("vqa", "vizwiz"), (_VIZWIZ,)),
    )
}


def format_of(name: str) -> Format:
    """The format called `name`.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]
