"""The published methods that models follow, as their cards cite them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A method and its paper.

    Args:
        name: as the paper calls it; in small letters a tag on the Hub.
        title: of the paper.
        arxiv: its number there.
        bibtex: the citation.
        remark: what a reader must know beside it.
    """

    name: str
    title: str
    arxiv: str
    bibtex: str
    remark: str = ""


LECCR = Method(
    name="LECCR",
    title="Multimodal LLM Enhanced Cross-lingual Cross-modal Retrieval",
    arxiv="2409.19961",
    bibtex="""\
@inproceedings{wang2024leccr,
  title     = {Multimodal LLM Enhanced Cross-lingual Cross-modal Retrieval},
  author    = {Wang, Yabing and Wang, Le and Zhou, Qiang and Wang, Zhibin and Li, Hao and Hua, Gang and Tang, Wei},
  booktitle = {Proceedings of the 32nd ACM International Conference on Multimedia},
  pages     = {8296--8305},
  year      = {2024}
}""",
)
CL2CM = Method(
    name="CL2CM",
    title="CL2CM: Improving Cross-Lingual Cross-Modal Retrieval via Cross-Lingual Knowledge Transfer",
    arxiv="2312.08984",
    bibtex="""\
@inproceedings{wang2024cl2cm,
  title     = {{CL2CM}: Improving Cross-Lingual Cross-Modal Retrieval via Cross-Lingual Knowledge Transfer},
  author    = {Wang, Yabing and Wang, Fan and Dong, Jianfeng and Luo, Hao},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {38},
  number    = {6},
  pages     = {5651--5659},
  year      = {2024}
}""",
    remark=" No code of it was published; what the paper leaves open was chosen here.",
)
# By the type of a model.
METHODS = {"leccr": LECCR, "cl2cm": CL2CM, "cl2cm_text": CL2CM}
