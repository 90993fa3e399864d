"""BM25 as its papers write it, document by document in float64: slow, and owing nothing to the package."""

from __future__ import annotations

from math import log


class Oracle:
    def __init__(self, variant="lucene", k1=1.5, b=0.75, delta=0.0, held=False):
        self.variant, self.k1, self.b, self.delta, self.held = variant, k1, b, delta, held
        self.docs: dict[int, list[str]] = {}

    def idf(self, term):
        n, df = len(self.docs), sum(term in doc for doc in self.docs.values())
        if df == 0:
            return 0.0
        return {
            "lucene": lambda: log(1 + (n - df + 0.5) / (df + 0.5)),
            "robertson": lambda: max(0.0, log((n - df + 0.5) / (df + 0.5))),
            "atire": lambda: log(n / df),
            "bm25l": lambda: log((n + 1) / (df + 0.5)),
            "bm25+": lambda: log((n + 1) / df),
        }[self.variant]()

    def tfc(self, tf, length):
        average = sum(map(len, self.docs.values())) / len(self.docs)
        k1, d, norm = self.k1, self.delta, 1 - self.b + self.b * length / average
        if tf == 0 and (self.held or self.variant in ("lucene", "robertson", "atire")):
            return 0.0
        return {
            "lucene": lambda: tf / (tf + k1 * norm),
            "robertson": lambda: tf / (tf + k1 * norm),
            "atire": lambda: (k1 + 1) * tf / (tf + k1 * norm),
            "bm25l": lambda: (k1 + 1) * (tf / norm + d) / (k1 + tf / norm + d) if norm else 0.0,
            "bm25+": lambda: ((k1 + 1) * tf / (tf + k1 * norm) if tf else 0.0) + d,
        }[self.variant]()

    def scores(self, query):
        """id -> score, of the documents that hold a term with idf > 0."""
        hits = {id for id, doc in self.docs.items() if any(t in doc and self.idf(t) > 0 for t in query)}
        return {
            id: sum(self.idf(t) * self.tfc(self.docs[id].count(t), len(self.docs[id])) for t in query) for id in hits
        }
