"""Encode a split, rank it, and search it."""

from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import evaluate_retrieval, evaluation_protocol, retrieval_ranks
from retrieval.index import ItemIndex
from retrieval.metrics import recall_metrics
from retrieval.ranks import RetrievalRanks, rank_texts_and_items, ranks_from_scores

__all__ = [
    "ItemIndex",
    "RetrievalRanks",
    "encode_items",
    "encode_texts",
    "evaluate_retrieval",
    "evaluation_protocol",
    "rank_texts_and_items",
    "ranks_from_scores",
    "recall_metrics",
    "retrieval_ranks",
]
