"""OK-VQA: questions about COCO photographs that need outside knowledge.

The layout is VQA's. Published parts: train and val, so val is the test. The model trains on the most common answer.
"""

from __future__ import annotations

from evertune.data.annotators import vqa_layout

ABOUT = {
    "title": "OK-VQA 1.1: questions that need outside knowledge, ten annotators each; tested on val2014",
    "source": "https://okvqa.allenai.org/download.html: OpenEnded_mscoco_train2014_questions.json.zip, "
    "mscoco_train2014_annotations.json.zip and the same of val2014; "
    "images: http://images.cocodataset.org/zips/train2014.zip, val2014.zip",
    "files": "OpenEnded_mscoco_{train,val}2014_questions.json, mscoco_{train,val}2014_annotations.json; "
    "images: {train,val}2014/COCO_{train,val}2014_*.jpg",
    "licence": "annotations: CC BY 4.0; photographs: their authors', under Flickr's terms of use",
    "citation": "Marino et al. 2019, OK-VQA, arXiv 1906.00067",
}
PROMPT = "Question: {question} Short answer:"
rows, files = vqa_layout("OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json")
