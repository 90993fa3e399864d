"""Where a BM25 score comes from, term by term."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TermScore:
    """What one query term gives to one document."""

    term: str
    weight: float  # in the query: how often it occurs there, or what the caller set
    idf: float
    df: int  # documents that hold the term
    tf: int  # how often this document does
    score: float


@dataclass(frozen=True)
class Explanation:
    """A document's score for a query: the float32 sum of the terms' scores, in their order here, and `everywhere`."""

    id: int
    score: float  # as `search` gives it; 0 if the document holds no query term of positive weight
    length: int  # of the document, in tokens
    average_length: float
    documents: int
    terms: list[TermScore]  # from the heaviest weight * idf down
    everywhere: float  # what BM25L and BM25+ give to every document

    def __str__(self) -> str:
        lines = [
            f"{self.score:.4f}  document {self.id}: {self.length} tokens, {self.average_length:.1f} on average "
            f"over {self.documents} documents"
        ]
        if self.everywhere:
            lines.append(f"{self.everywhere:8.4f}  every document")
        lines += [
            f"{t.score:8.4f}  {t.term}: {t.tf} times here, in {t.df} documents, idf {t.idf:.3f}"
            + (f", weight {t.weight:g}" if t.weight != 1 else "")
            for t in self.terms
        ]
        return "\n".join(lines)
