"""PairClassifier: does one text follow from another, contradict it, repeat it? Logistic regression over two embeddings.

    classifier = PairClassifier().fit(model.encode(premises), model.encode(hypotheses), labels)
    classifier.predict(model.encode(["A man sleeps."]), model.encode(["Nobody is awake."]))

A pair u, v becomes the features [u, v, |u - v|, u * v] (Conneau et al., EMNLP 2017), which a linear layer with softmax
reads. The loss is convex, so nothing is random: the same pairs give the same classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FormatError, InputError
from ..index.contract import whole
from ..shapes import Floats, as_vectors
from ..store.snapshot import read_snapshot, write_snapshot

Doubles = NDArray[np.float64]
KIND = "pair-classifier"


def pair_features(u: ArrayLike, v: ArrayLike) -> Floats:
    """[u, v, |u - v|, u * v]: float32 [N, 4 dim] of vectors [N, dim] and [N, dim]. Raises InputError."""
    a = as_vectors(u, name="the first vectors")
    b = as_vectors(v, a.shape[1], name="the second vectors")
    if len(a) != len(b):
        raise InputError(f"pairs need as many first vectors as second ones, not {len(a)} and {len(b)}")
    return np.concatenate([a, b, np.abs(a - b), a * b], axis=1)


def softmax(x: Doubles) -> Doubles:
    """Rows of x [N, K] as probabilities."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss(w: Doubles, b: Doubles, x: Doubles, target: NDArray[np.int64], l2: float) -> float:
    """Mean of -log softmax(x wᵀ + b)[target], plus l2 / 2 · |w|². w [K, F], b [K], x [N, F], target [N]."""
    z = x @ w.T + b
    z = z - z.max(axis=1, keepdims=True)
    log_likelihood = z[np.arange(len(z)), target] - np.log(np.exp(z).sum(axis=1))
    return float(-log_likelihood.mean() + l2 / 2 * (w * w).sum())


def loss_grad(w: Doubles, b: Doubles, x: Doubles, target: NDArray[np.int64], l2: float) -> tuple[Doubles, Doubles]:
    """d loss / dw [K, F] and d loss / db [K]."""
    dz = softmax(x @ w.T + b)  # -log softmax(z)[target]: softmax(z) - 1 at the target
    dz[np.arange(len(dz)), target] -= 1
    dz /= len(dz)
    return dz.T @ x + l2 * w, dz.sum(axis=0)


class PairClassifier:
    """See the module. l2: weight of the penalty; max_iter: of the optimizer. Learned state ends in _."""

    def __init__(self, *, l2: float = 1e-4, max_iter: int = 500):
        if isinstance(l2, bool) or not isinstance(l2, (int, float)) or not l2 >= 0:
            raise InputError(f"l2 must be a number of at least 0, not {l2!r}")
        self.l2, self.max_iter = float(l2), whole("max_iter", max_iter, 1)
        self.classes_: list[Any] = []  # label of each output, sorted
        self.w_: Doubles = np.empty((0, 0))  # [K, 4 dim]
        self.b_: Doubles = np.empty(0)  # [K]

    def fit(self, u: ArrayLike, v: ArrayLike, labels: Sequence[Any]) -> Self:
        """Learns from vectors [N, dim] and [N, dim] with labels [N], strings or whole numbers. Raises InputError."""
        x = pair_features(u, v).astype(np.float64)
        listed = [label.item() if isinstance(label, np.generic) else label for label in labels]
        if len(listed) != len(x):
            raise InputError(f"there are {len(x)} pairs, but {len(listed)} labels: there must be one for each")
        kinds = {type(label) for label in listed}
        if not kinds <= {str} and not kinds <= {int, bool}:
            raise InputError(
                f"labels must be all strings or all whole numbers, not {sorted(k.__name__ for k in kinds)}"
            )
        classes = sorted(set(listed))
        if len(classes) < 2:
            raise InputError("there must be two different labels at least, or there is nothing to learn")
        target = np.array([classes.index(label) for label in listed])
        k, f = len(classes), x.shape[1]

        def value(p: Doubles) -> float:
            return loss(p[: k * f].reshape(k, f), p[k * f :], x, target, self.l2)

        def gradient(p: Doubles) -> Doubles:
            dw, db = loss_grad(p[: k * f].reshape(k, f), p[k * f :], x, target, self.l2)
            return np.concatenate([dw.ravel(), db])

        p = lbfgs(value, gradient, np.zeros(k * f + k), self.max_iter)
        self.classes_, self.w_, self.b_ = classes, p[: k * f].reshape(k, f), p[k * f :]
        return self

    def predict_proba(self, u: ArrayLike, v: ArrayLike) -> Doubles:
        """Probabilities [N, K] of the labels in `classes_`. Raises InputError."""
        if not self.classes_:
            raise InputError("the classifier has learned nothing yet: call fit first")
        x = pair_features(u, v)
        if x.shape[1] != self.w_.shape[1]:
            raise InputError(f"vectors have {x.shape[1] // 4} dimensions, expected {self.w_.shape[1] // 4}")
        return softmax(x @ self.w_.T + self.b_)

    def predict(self, u: ArrayLike, v: ArrayLike) -> list[Any]:
        """The most probable label of each pair. Raises InputError."""
        return [self.classes_[i] for i in self.predict_proba(u, v).argmax(axis=1)]

    def save(self, path: str | Path) -> None:
        """Writes the classifier to one checksummed file, atomically."""
        fields = {"classes": self.classes_, "l2": self.l2, "max_iter": self.max_iter}
        write_snapshot(path, KIND, {"w": self.w_, "b": self.b_}, fields)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote. Raises FormatError."""
        arrays, fields = read_snapshot(path, KIND)
        try:
            classifier = cls(l2=fields["l2"], max_iter=fields["max_iter"])
            classifier.classes_, w, b = list(fields["classes"]), arrays["w"], arrays["b"]
            if w.ndim != 2 or w.shape[1] % 4 or not len(w) == len(b) == len(classifier.classes_):
                raise ValueError(f"weights {list(w.shape)} do not fit {len(classifier.classes_)} classes")
            classifier.w_, classifier.b_ = np.array(w, np.float64), np.array(b, np.float64)
        except (KeyError, TypeError, ValueError) as e:
            raise FormatError(f"{path} is damaged: {e}") from None
        return classifier


def lbfgs(
    value: Callable[[Doubles], float],
    gradient: Callable[[Doubles], Doubles],
    p: Doubles,
    max_iter: int,
    memory: int = 10,
    tolerance: float = 1e-7,
) -> Doubles:
    """A minimum of a smooth convex function, from `p` on; stops where no part of the gradient exceeds `tolerance`.

    Limited-memory BFGS with backtracking (Nocedal & Wright, Numerical optimization, 2006, algorithms 7.4 and 3.1).
    """
    f, g = value(p), gradient(p)
    steps: list[tuple[Doubles, Doubles, float]] = []  # (change of p, change of g, their product), newest last
    for _ in range(max_iter):
        if np.abs(g).max() <= tolerance:
            break
        d = g.copy()
        pushed = []
        for s, y, sy in reversed(steps):
            a = (s @ d) / sy
            d -= a * y
            pushed.append(a)
        if steps:
            s, y, sy = steps[-1]
            d *= sy / (y @ y)
        for (s, y, sy), a in zip(steps, reversed(pushed), strict=True):
            d += (a - (y @ d) / sy) * s
        slope, t = g @ d, 1.0 if steps else min(1.0, 1 / np.abs(g).sum())
        while (f_new := value(p - t * d)) > f - 1e-4 * t * slope and t > 1e-12:
            t /= 2
        if t <= 1e-12:
            break  # rounding alone is left
        step, g_new = -t * d, gradient(p - t * d)
        if (product := step @ (g_new - g)) > 1e-14 * (step @ step):
            steps = [*steps[1 - memory :], (step, g_new - g, float(product))]
        p, f, g = p + step, f_new, g_new
    return p
