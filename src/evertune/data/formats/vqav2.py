"""VQAv2: questions about COCO photographs, ten annotators each.

Its test answers are not public, so the validation part is the test. The model trains on the most common answer.
"""

from __future__ import annotations

from evertune.data.annotators import vqa_layout

ABOUT = {
    "title": "VQAv2: questions about COCO photographs, ten annotators each; tested on val2014",
    "source": "https://visualqa.org/download.html: https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/"
    "v2_Questions_Train_mscoco.zip, v2_Questions_Val_mscoco.zip, v2_Annotations_Train_mscoco.zip, "
    "v2_Annotations_Val_mscoco.zip; images: http://images.cocodataset.org/zips/train2014.zip, val2014.zip",
    "files": "v2_OpenEnded_mscoco_{train,val}2014_questions.json, v2_mscoco_{train,val}2014_annotations.json; "
    "images: {train,val}2014/COCO_{train,val}2014_*.jpg",
    "licence": "annotations: CC BY 4.0; photographs: their authors', under Flickr's terms of use",
    "citation": "Goyal et al. 2017, Making the V in VQA Matter, arXiv 1612.00837",
}
PROMPT = "Question: {question} Short answer:"
rows, files = vqa_layout("v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")
