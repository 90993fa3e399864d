# %% [markdown]
# # SIMD from Python
#
# A model that reads text multiplies matrices, and does little else. So the question of this lesson is: how fast could
# *one core* of this processor multiply two matrices, and how near to that can one come from Python?
#
# First we measure the limit itself. Then we write one matrix product again and again, each time removing what holds it
# back, and end at the kernel that the library uses. After that come the questions that speed raises: what does the
# order of a sum change, what does one byte instead of four cost, and why is a single short question a case of its own?
#
# You need some Python, and to know what a matrix product is. All numbers below were measured by the cells above them.
# On another processor they will be others, and so will some of the pictures: the text says what to look for. It takes
# less than a minute, much of it compiling.

# %%
import os

for library in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{library}_THREADS"] = "1"  # this lesson is about one core; NumPy must find it so when it is imported

import math
import re
import time
from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from lesson import draw_table, ink, show_source, style, write_beside
from llvmlite import ir
from matplotlib.patheffects import withStroke
from numba import njit, types
from numba.extending import intrinsic

from minibi.kernels import matmul, simd, target
from minibi.kernels.simd import LANES, Loop, constant, i64
from minibi.shapes import aligned

style()

# %% [markdown]
# ## 0 · The question
#
# The matrix product $c = a\,b$ of an $M \times K$ and a $K \times N$ matrix is
#
# $$ c_{ij} = \sum_{k=1}^{K} a_{ik}\, b_{kj}, $$
#
# which is $MNK$ multiplications and as many additions. Speed is counted in **GFLOP/s**: billions of such operations
# in a second. Our example for the whole lesson is a product from inside the model of the first lesson: 192 tokens of
# 384 channels each, going up to 1536.

# %%
M, K, N = 192, 384, 1536
OPERATIONS = 2 * M * K * N

rng = np.random.default_rng(2)
a, b, c = (aligned(shape) for shape in ((M, K), (K, N), (M, N)))  # zeros, from the beginning of a cache line on
rng.standard_normal(out=a, dtype=np.float32)
rng.standard_normal(out=b, dtype=np.float32)
truth = a.astype(np.float64) @ b.astype(np.float64)


def three_loops(a, b):
    """The formula, as one writes it in Python."""
    c = [[0.0] * len(b[0]) for _ in a]
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)):
                c[i][j] += a[i][k] * b[k][j]
    return c


tiny_a, tiny_b = a[:12, :24].tolist(), b[:24, :16].tolist()
assert np.allclose(three_loops(tiny_a, tiny_b), a[:12, :24] @ b[:24, :16], atol=1e-5)

# %% [markdown]
# Times on a computer are noisy: other programs run, clocks change. So in this lesson contenders **take turns**, round
# by round, each round gives a figure for each of them, and the median of the rounds counts. We count the time that the
# processor spent on *this* program.

# %%
clock = time.process_time if os.name == "posix" else time.perf_counter  # elsewhere it is too coarse for this


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int = 7, seconds: float = 0.005, now=clock) -> dict:
    """Seconds per call of each contender, one figure per round. A short call is repeated for about `seconds`."""
    calls, times = {}, {name: [] for name in contenders}
    for name, call in contenders.items():
        call()  # compiles
        begin = now()
        call()
        calls[name] = 1 + int(seconds / max(now() - begin, 1e-7))
    for _ in range(rounds):
        for name, call in contenders.items():
            begin = now()
            for _ in range(calls[name]):
                call()
            times[name].append(max(now() - begin, 1e-9) / calls[name])
    return {name: np.array(values) for name, values in times.items()}


def speeds(contenders: dict[str, tuple[Callable[[], object], float]], rounds: int = 7) -> dict[str, float]:
    """Billions of operations per second: medians for {name: (call, operations per call)}."""
    times = in_turns({name: call for name, (call, _) in contenders.items()}, rounds)
    return {name: float(np.median(contenders[name][1] / t)) / 1e9 for name, t in times.items()}


python = (lambda: three_loops(tiny_a, tiny_b), 2 * 12 * 24 * 16)
blas = (lambda: np.matmul(a, b, out=c), OPERATIONS)
first = speeds({"three loops": python, "NumPy": blas})
print(f"three Python loops: {first['three loops']:.3f} GFLOP/s")
print(f"NumPy:              {first['NumPy']:.1f} GFLOP/s, {first['NumPy'] / first['three loops']:,.0f} times as many")
assert first["NumPy"] > 20 * first["three loops"]

# %% [markdown]
# NumPy hands the product to BLAS, a library of hand-made kernels. Is that as fast as the core can go? To know, we need
# a number that no program can beat.

# %% [markdown]
# ## 1 · The roofline
#
# ### What the core can compute
#
# A core computes on **registers**, a few dozen cells of its own. A vector register holds several numbers side by side,
# its **lanes**, and one instruction works on all of them: single instruction, multiple data, SIMD. The instruction that
# matters to us is the fused multiply-add (**fma**), $x \cdot y + z$ in every lane, which counts as two operations per
# lane.
#
# Python has no such thing. But Numba compiles functions through LLVM, and with `@intrinsic` a Python function may run
# *during* the compilation and write LLVM's instructions itself. `minibi.kernels.simd` makes that bearable: a `Lanes`
# is sixteen float32 numbers in the code that is being written, and `+` on it does not add; it writes an instruction
# that will. Sixteen lanes are one register where the processor has AVX-512; elsewhere LLVM splits them into two or
# four.

# %%
show_source(simd.Lanes.__add__, simd.Lanes.fma, simd.load, simd.splat)
print("This processor has AVX-512:", target.has_wide_registers(), "  AVX2:", target.has_avx2())

# %% [markdown]
# To measure the core alone, we need a loop that touches nothing but registers. Here are `count` sums, each of which
# becomes `x * y + sum`, over and over. `generate` is the function that runs during compilation; `builder` is LLVM's
# pen; `Loop` writes a loop that hands vectors from one turn to the next.


# %%
def fma_loop(count: int) -> Callable[..., float]:
    """A compiled (turns, x, y) with `count` independent sums of sixteen lanes."""

    @intrinsic
    def spin(typing_context, turns, x, y):
        def generate(context, builder, signature, args):
            turns, x, y = args
            x, y = simd.splat(builder, x), simd.splat(builder, y)
            with Loop(builder, turns, [constant(builder, i) for i in range(count)]) as loop:
                loop.next(*[x.fma(y, total) for total in loop.carried])
            result, *others = loop.results
            return simd.sum_lanes(builder, sum(others, result))

        return types.float32(types.int64, types.float32, types.float32), generate

    @njit
    def compiled(turns, x, y):
        return spin(turns, x, y)

    return compiled


half, two = np.float32(0.5), np.float32(2)
assert fma_loop(3)(100, half, two) == LANES * (0 + 1 + 2 + 3 * 100)  # sums begin at 0, 1, 2 and grow by 1 each turn

# %% [markdown]
# How many sums? One would do, if each fma were finished before the next one begins. It is not: an fma takes several
# cycles until its result is there (its **latency**), and a sum cannot be continued before that. But a core can begin
# an fma in every cycle, many of them two, as long as they do not wait for each other. So we try.

# %%
TURNS = 20_000
counts = (1, 2, 3, 4, 6, 8, 12, 16, 24, 28, 32, 40)
loops = {count: fma_loop(count) for count in counts}


def spinning(count: int) -> tuple[Callable[[], object], float]:
    return lambda: loops[count](TURNS, half, two), TURNS * count * 2 * LANES


by_count = speeds({count: spinning(count) for count in counts})
best = max(by_count, key=by_count.get)
peak, one_sum = by_count[best], by_count[1]

fig, ax = plt.subplots(figsize=(8, 3.4))
ax.plot(counts, list(by_count.values()), color=ink.blue, marker="o")
ax.axhline(peak, color=ink.red, lw=1, ls="--")
ax.text(40, peak * 1.02, f"the peak: {peak:.0f} GFLOP/s", color=ink.red, ha="right", va="bottom")
ax.set(title="The same instruction, more or fewer independent sums", xlabel="sums in flight", ylabel="GFLOP/s")
ax.set_ylim(0, peak * 1.15)
ax.set_xticks([1, 4, 8, 12, 16, 24, 32, 40])
plt.show()

print(f"one sum: {one_sum:.0f} GFLOP/s;  {best} sums: {peak:.0f};  the most, {counts[-1]}: {by_count[counts[-1]]:.0f}")
print(f"so in the time that one fma takes from end to end, {peak / one_sum:.1f} of them can begin")
assert peak >= one_sum

# %% [markdown]
# On the left the core waits: with one sum it does nothing most of the time. More sums fill the gaps until there are no
# gaps. On the right there are more sums than registers (32 vectors of sixteen with AVX-512, 8 with AVX2): some must
# be put away into memory and fetched again in every turn, and the speed drops.
#
# The best of these is the number that no kernel of fma's on this core can beat: the **peak**.
#
# ### What memory can deliver
#
# Numbers must come from somewhere. Between registers and memory lie caches, the nearer the smaller. We measure how
# fast one core can read, by adding up an array of a given size again and again: what fits into a cache stays there.


# %%
@intrinsic
def sum_floats(typing_context, address, n):
    """The sum of n floats, n a multiple of 256: sixteen vectors in flight, so that nothing waits."""

    def generate(context, builder, signature, args):
        address, n = args
        with Loop(builder, n, [constant(builder, 0)] * 16, step=16 * LANES) as loop:
            here = builder.add(address, builder.mul(loop.index, i64(4)))
            loop.next(*[total + simd.load(builder, here, 64 * i) for i, total in enumerate(loop.carried)])
        result, *others = loop.results
        return simd.sum_lanes(builder, sum(others, result))

    return types.float32(types.intp, types.int64), generate


@njit
def read_again(x, n, times):
    total = np.float32(0)
    for _ in range(times):
        total += sum_floats(x.ctypes.data, n)
    return total


plenty = aligned((64 << 18,))  # 64 MB that begin at a cache line
plenty[:] = 1
assert read_again(plenty, 1 << 20, 2) == 2 << 20

TILE, PANEL, WHOLE, MEMORY = 4 * K * LANES, 4 * K * 4 * LANES, 4 * K * N, plenty.nbytes  # bytes; we shall meet them
sizes = sorted({*(8192 << i for i in range(14)), TILE, PANEL, WHOLE, MEMORY})


def reading(size: int) -> tuple[Callable[[], object], float]:
    times = max(1, (2 << 20) // size)
    return lambda: read_again(plenty, size // 4, times), size * times


times = in_turns({size: reading(size)[0] for size in sizes}, rounds=5)
bandwidths = [reading(size)[1] / times[size].min() / 1e9 for size in sizes]  # a limit: the best round counts


def bandwidth(size: int) -> float:
    """GB/s at which one core reads `size` bytes again and again."""
    return float(np.interp(np.log(size), np.log(sizes), bandwidths))


def in_bytes(size: int) -> str:
    return f"{size / 2**20:.3g} MB" if size >= 1 << 20 else f"{size / 1024:.0f} KB"


fig, ax = plt.subplots(figsize=(8, 3.2))
ax.plot(sizes, bandwidths, color=ink.blue, marker="o", ms=4)
ax.set(xscale="log", title="Reading an array again and again", xlabel="size of the array", ylabel="GB/s")
ax.set_ylim(bottom=0)
ax.set_xticks(sizes[::3], [in_bytes(size) for size in sizes[::3]])
ax.minorticks_off()
plt.show()

near, far = bandwidth(sizes[1]), bandwidth(MEMORY)
print(f"{in_bytes(sizes[1])}: {near:.0f} GB/s;  {in_bytes(MEMORY)}: {far:.0f} GB/s")
assert near > far

# %% [markdown]
# Each stair is a cache. (Caches and memory are shared with whatever else runs on the machine, so the lower stairs sway
# from one minute to the next, more than anything else in this lesson.) Data moves in **cache lines** of 64 bytes,
# sixteen floats: whoever wants one number from far away gets, and pays for, its fifteen neighbours.
#
# ### The picture
#
# A kernel does some number of operations for every byte it reads, its **intensity**. If bytes come at $B$ GB/s, then
# no more than intensity times $B$ operations can be done in a second, and never more than the peak:
#
# $$ \text{speed} \le \min(\text{peak},\ \text{intensity} \times B) $$
#
# Drawn on logarithmic scales, that is a roof: a slope for each place that bytes may come from, and a flat ridge
# (Williams, Waterman & Patterson 2009). The example under it is a matrix times one vector: two operations for every
# four bytes of the matrix, so 0.5 per byte, whatever one does.

# %%
LEVELS = {TILE: (ink.green, "^"), PANEL: (ink.blue, "o"), WHOLE: (ink.orange, "D"), MEMORY: (ink.red, "s")}


def roofline(points: list[tuple[str, float, float, int]], title: str, peaks: dict[str, float]) -> None:
    """points: (name, intensity, GFLOP/s, size of what is read again and again)."""
    _, ax = plt.subplots(figsize=(8.5, 4.6))
    x = np.geomspace(1 / 16, 256, 400)
    top = max(peaks.values())
    for size, (colour, marker) in LEVELS.items():
        if size == MEMORY or any(point[3] == size for point in points):
            ax.plot(x, np.minimum(top, x * bandwidth(size)), color=colour, lw=1.5, zorder=1)
            ax.plot([], [], color=colour, marker=marker, label=f"{in_bytes(size)} at {bandwidth(size):.0f} GB/s")
    for name, height in peaks.items():
        ax.axhline(height, color=ink.black, lw=1.5 if height == top else 0.8, zorder=1)
        ax.text(250, height * 1.06, f"{name}: {height:.0f}", ha="right", va="bottom")
    for _, intensity, speed, size in points:
        colour, marker = LEVELS[size]
        ax.plot(intensity, speed, marker, color=colour, ms=8, markeredgecolor="white", zorder=3)
    ax.set(xscale="log", yscale="log", title=title, xlabel="operations per byte read", ylabel="billions per second")
    low = min(speed for _, _, speed, _ in points)
    ax.set(xlim=(1 / 16, 256), ylim=(min(low / 2, 1.5), top * 1.9))
    ticks = [1 / 16, 1 / 4, 1, 4, 16, 64, 256]
    ax.set_xticks(ticks, ["1/16", "1/4", "1", "4", "16", "64", "256"])
    round_numbers = [n for n in (1, 10, 100, 1000) if ax.get_ylim()[0] < n < ax.get_ylim()[1]]
    ax.set_yticks(round_numbers, map(str, round_numbers))
    ax.minorticks_off()
    ax.legend(title="read again and again:", loc="lower right", alignment="left")
    write_beside(ax, np.array([(i, s) for _, i, s, _ in points]), [name for name, *_ in points])
    for text in ax.texts:
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    plt.show()


def matrix_times_vector(size: int) -> tuple[Callable[[], object], float]:
    matrix, vector = plenty[: size // 4 // K * K].reshape(-1, K), a[0]
    return lambda: matrix @ vector, size / 2


contenders = {("product", size): matrix_times_vector(size)[0] for size in (PANEL, MEMORY)}
contenders |= {("reading", size): reading(size)[0] for size in (PANEL, MEMORY)}
times = in_turns(contenders, rounds=9)
for size in (PANEL, MEMORY):  # memory may be quicker now than a moment ago
    bandwidths[sizes.index(size)] = max(bandwidth(size), reading(size)[1] / times["reading", size].min() / 1e9)
small, large = (size / 2 / np.median(times["product", size]) / 1e9 for size in (PANEL, MEMORY))
far = bandwidth(MEMORY)
points = [("matrix × vector, 96 KB", 0.5, small, PANEL), ("matrix × vector, 64 MB", 0.5, large, MEMORY)]
roofline(points, "The roofline of one core, and NumPy under it", {"peak": peak})

once = 4 * (M * K + K * N + M * N)
print(f"64 MB: {large:.1f} GFLOP/s under a roof of {0.5 * far:.1f}")
print(f"our matrix product: {OPERATIONS / once:.0f} operations per byte, if every byte is moved once")
assert OPERATIONS / once * far > peak

# %% [markdown]
# For a matrix and one vector there is nothing to gain beyond its slope. A matrix and *many* vectors are another
# matter: every number of $b$ is needed once for each of the 192 rows. If it is fetched once and used often, the peak is
# the only limit. The whole art is to use numbers often while they are near.

# %% [markdown]
# ## 2 · One product, step by step
#
# Each of the following programs computes the same product. Each is checked, then put beside the peak in the same turns.
# First, the three loops as Numba compiles them.


# %%
@njit
def rows_by_columns(a, b, c):
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@njit
def row_after_row(a, b, c):
    c[:] = 0
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


steps: dict[str, tuple[Callable[[], object], float]] = {}
few = 12  # rows are enough for what is slow


def add_step(name: str, call: Callable[[], object], rows: int = M) -> None:
    """Checks a program that writes the first `rows` rows of c, and prints its share of the peak."""
    c[:] = 0
    call()
    assert np.allclose(c[:rows], truth[:rows], atol=1e-3)
    steps[name] = (call, OPERATIONS * rows / M)
    measured = speeds({"peak": spinning(best), name: steps[name]})
    print(f"{name}: {measured[name]:.1f} GFLOP/s, {measured[name] / measured['peak']:.1%} of the peak")


steps["Python, three loops"] = python
add_step("Numba, three loops", lambda: rows_by_columns(a[:few], b, c), few)
add_step("Numba, loops swapped", lambda: row_after_row(a, b, c))

# %% [markdown]
# The first walks down a *column* of $b$: each step lands in another cache line, of whose sixteen floats one is used.
# Also it is one single sum, and Numba may not split it into several, since that would change the result (part 3).
#
# Swapping two loops mends both. Now the innermost loop runs along a *row* of $b$, every cache line is used whole, and
# the sums of different $j$ have nothing to do with each other, so LLVM makes vectors of them by itself. But look at
# what it must do for each: load a piece of $b$, load a piece of $c$, multiply and add, store the piece of $c$. Three
# ways to memory for one fma.
#
# ### One vector of sixteen
#
# So keep the sums in registers. Take sixteen columns of $c$ in one row: one vector. Walk down $k$: load sixteen numbers
# of $b$, one number of $a$ into all lanes (a **broadcast**), fma. Store once, at the end. Addresses are plain integers,
# in bytes.


# %%
@intrinsic
def sixteen_columns(typing_context, a, b, b_row, k, c):
    """c[:16] = a[:k] @ b[:k, :16]; b_row: bytes from one row of b to the next."""

    def generate(context, builder, signature, args):
        e = builder
        a, b, b_row, k, c = args
        with Loop(e, k, [constant(e, 0)]) as loop:
            (total,) = loop.carried
            x = simd.broadcast(e, e.add(a, e.mul(loop.index, i64(4))))
            columns = simd.load(e, e.add(b, e.mul(loop.index, b_row)))
            loop.next(x.fma(columns, total))
        simd.store(e, loop.results[0], c)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@njit
def one_vector_at_a_time(a, b, c, m, k, n):
    for i in range(m):
        for j in range(0, n, LANES):
            sixteen_columns(a + 4 * k * i, b + 4 * j, 4 * n, k, c + 4 * (n * i + j))


at_a, at_b, at_c = a.ctypes.data, b.ctypes.data, c.ctypes.data
add_step("one vector", lambda: one_vector_at_a_time(at_a, at_b, at_c, M, K, N))
assert 4 * N == 6144 and in_bytes(WHOLE) == "2.25 MB"

# %% [markdown]
# Two ways to memory per fma instead of three; and yet this need not be faster than the swapped loops, it may well be
# slower. One reason is a wait that we have met: one vector is one sum. The other is how $b$ is read. For every row of
# $a$, all of $b$ goes by (2.25 MB, see the stairs above), as it did before, but now in long strides. From one load to
# the next it is $4N = 6144$ bytes, more than a usual page of memory, and most cores do not try to guess what is needed
# beyond a page.
#
# ### Packed panels
#
# $b$ holds the weights of a model: they never change. We may lay them out once as we like. Cut $b$ into **panels** of
# some columns, each panel stored from end to end, in just the order in which it will be read. A panel is small enough
# for a near cache, so we take one panel after the other and multiply all rows of $a$ by it while it stays there.
#
# In the same go we write the kernel for blocks of `rows` rows and `vectors` vectors at once. With one of each it does
# what the last one did.


# %%
def sums_in_registers(rows: int, vectors: int) -> Callable[..., None]:
    """A compiled (a, panels, c, m, k, n) with a, panels, c addresses: c = a @ b in blocks of rows x (16 vectors)."""

    @intrinsic
    def block(typing_context, a, panel, k, c, c_row):
        def generate(context, builder, signature, args):
            e = builder
            a, panel, k, c, c_row = args
            with Loop(e, k, [constant(e, 0)] * (rows * vectors)) as loop:
                here = e.add(panel, e.mul(loop.index, i64(64 * vectors)))
                columns = [simd.load(e, here, 64 * j) for j in range(vectors)]
                sums = []
                for i in range(rows):
                    x = simd.broadcast(e, e.add(a, e.mul(i64(4), e.add(e.mul(k, i64(i)), loop.index))))
                    sums += [x.fma(columns[j], loop.carried[i * vectors + j]) for j in range(vectors)]
                loop.next(*sums)
            for i in range(rows):
                for j in range(vectors):
                    simd.store(e, loop.results[i * vectors + j], e.add(c, e.mul(c_row, i64(i))), 64 * j)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), generate

    @njit
    def compiled(a, panels, c, m, k, n):
        for j in range(0, n, LANES * vectors):
            for i in range(0, m, rows):
                block(a + 4 * k * i, panels + 4 * k * j, k, c + 4 * (n * i + j), 4 * n)

    return compiled


def in_panels(b: np.ndarray, width: int) -> np.ndarray:
    """[K, N] -> [N / width, K, width]"""
    panels = aligned((N // width, K, width))
    panels[:] = b.reshape(K, N // width, width).transpose(1, 0, 2)
    return panels


panels = {vectors: in_panels(b, LANES * vectors) for vectors in (1, 2, 4)}
assert (panels[1][0].nbytes, panels[4][0].nbytes) == (TILE, PANEL)
shapes = [(rows, vectors) for rows in (1, 3, 6, 8) for vectors in (1, 2, 4)]
kernels = {shape: sums_in_registers(*shape) for shape in shapes}  # compiled when they are first called


def in_blocks(rows: int, vectors: int) -> Callable[[], None]:
    """Ready to call."""
    where = panels[vectors].ctypes.data
    return lambda: kernels[rows, vectors](at_a, where, at_c, M, K, N)


fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.5))
read = np.arange(1, 37).reshape(6, 6)  # six panels of six rows: when each cache line is read
for ax, order, what in zip(axes, (read.T, read), ("b as it lies", "b in panels"), strict=True):
    ax.imshow(order, cmap="Blues", vmax=60)
    for (i, j), when in np.ndenumerate(order):
        ax.text(j, i, when, ha="center", va="center", size=9)
    ax.set(title=what, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
fig.suptitle("Cells are cache lines in the order of memory, numbers say when each is read", size=10)
plt.show()

add_step("packed panels", in_blocks(1, 1))

# %% [markdown]
# Now bytes arrive in time, and the wait for the one sum is what remains. So let us have more sums: four vectors in a
# row, a panel of 64 columns.

# %%
add_step("four vectors", in_blocks(1, 4))

# %% [markdown]
# ### A tile in registers
#
# With one row, every vector of $b$ that is loaded serves a single fma. With six rows it serves six: load it once,
# multiply it by a number from each of the rows. A tile of $R$ rows and $V$ vectors takes $R$ broadcasts and $V$ loads
# for $R\,V$ fma's, so
#
# $$ \frac{\text{loads}}{\text{fma}} = \frac{R + V}{R\,V}, \qquad
# \text{vectors held} = R\,V + V + 1, \qquad
# \frac{\text{operations}}{\text{byte of } b} = \frac{2 \cdot 16\, R\,V}{64\,V} = \frac R2 $$
#
# The larger the tile the better, until it no longer fits into the registers. A processor that can begin two fma's and
# two loads in a cycle needs at most one load per fma, better less. We measure all of them:

# %%
for shape in shapes:
    c[:] = 0
    in_blocks(*shape)()
    assert np.allclose(c, truth, atol=1e-3)
contenders = {"peak": spinning(best)} | {shape: (in_blocks(*shape), OPERATIONS) for shape in shapes}
by_shape = speeds(contenders, rounds=5)
share = np.array([by_shape[shape] / by_shape["peak"] for shape in shapes]).reshape(4, 3).T

capacity = 32 if target.has_wide_registers() else 8  # vectors of sixteen that the registers hold
fig, ax = plt.subplots(figsize=(8.5, 3.6))
ax.imshow(share, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
for (i, j), value in np.ndenumerate(share):
    rows, vectors = shapes[3 * j + i]
    held = rows * vectors + vectors + 1
    note = f"{(rows + vectors) / (rows * vectors):.2f} loads per fma\n{held} vectors held"
    colour = "white" if value > 0.7 else "black"
    ax.text(j, i - 0.18, f"{value:.0%}", ha="center", va="center", size=13, color=colour)
    ax.text(j, i + 0.2, note, ha="center", va="center", size=7.5, color=colour)
    if held > capacity:
        ax.add_patch(plt.Rectangle((j - 0.48, i - 0.47), 0.96, 0.94, fill=False, edgecolor=ink.red, lw=2))
ax.set_xticks(range(4), [f"{rows} rows" if rows > 1 else "1 row" for rows, _ in shapes[::3]])
ax.set_yticks(range(3), ["1 vector", "2 vectors", "4 vectors"])
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
ax.set_title(f"Share of the peak by size of the tile (red frame: more than the {capacity} vectors there is room for)")
plt.show()

assert 6 * 4 + 4 + 1 <= 32 < 8 * 4 + 4 + 1
assert 6 * 1 + 1 + 1 <= 8
assert matmul.ROWS == 6 and {32: 4, 8: 1}[capacity] == matmul.VECTORS

# %% [markdown]
# With room for 32 vectors, 6 × 4 is the largest tile here that fits; with room for 8, it is 6 × 1. These are the two
# sizes that the library uses. What the compiler made of them can be read. The innermost loop of the 6 × 4 tile:


# %%
def inner_loop(function: Callable[..., object]) -> list[str]:
    """The machine's instructions between two labels, where most multiply-adds are."""
    (assembly,) = function.inspect_asm().values()
    parts = re.split(r"\n(?=[^\s:]+:)", assembly)
    body = max(parts, key=lambda part: len(re.findall(r"fmadd|fmla", part)))
    return [line.strip().replace("\t", " ") for line in body.splitlines()[1:]]


for rows, vectors in ((6, 4), (8, 4)):
    code = inner_loop(kernels[rows, vectors])
    multiply = sum(bool(re.search("fmadd|fmla", line)) for line in code)
    stack = sum("rsp" in line or "[sp" in line for line in code)
    print(f"{rows} x {vectors}: {len(code)} instructions, {multiply} of them fma; {stack} touch the stack")
print()
print("\n".join(inner_loop(kernels[6, 4])[:12]), "\n...")

# %% [markdown]
# A touch of the stack is a sum that found no register. Now the library's tile. It is ours and a few things more: it
# asks for the bytes of the panel before they are needed (`prefetch`), reads weights of 16 bits too, and takes fewer
# than six rows at the end of a matrix.

# %%
show_source(matmul.tile_sums, matmul.tile, matmul.pack)

library_panels = matmul.pack(b)
no_bias = np.zeros(N, np.float32)


def by_library(x: np.ndarray, packed: np.ndarray, width: int = N) -> np.ndarray:
    """x @ b by the kernel that models run on."""
    out = np.empty((len(x), width), np.float32)
    matmul.linear(x, packed.view(np.uint8), False, no_bias[:width], out, matmul.NONE, out)
    return out


def write_c() -> None:
    matmul.linear(a, library_panels.view(np.uint8), False, no_bias, c, matmul.NONE, c)


add_step(f"minibi: {matmul.ROWS} × {matmul.VECTORS} tile", write_c)

# %% [markdown]
# Finally all of them in the same turns, with NumPy:

# %%
steps["NumPy (BLAS)"] = blas
final = speeds({**steps, "peak": spinning(best)}, rounds=9)
share = {name: final[name] / final["peak"] for name in steps}

fig, ax = plt.subplots(figsize=(8.5, 3.6))
colours = [ink.orange if "NumPy" in name else ink.blue for name in share]
bars = ax.barh(list(share), list(share.values()), color=colours)
labels = ax.bar_label(bars, [f"{v:.1%}" if v > 0.0005 else f"{v:.4%}" for v in share.values()], padding=4)
for label in labels:
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # above the line at 100%
ax.axvline(1, color=ink.red, lw=1, ls="--")
ax.set(title=f"Share of the peak ({final['peak']:.0f} GFLOP/s)", xlim=(0, 1.12))
ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
ax.invert_yaxis()
plt.show()

ours = f"minibi: {matmul.ROWS} × {matmul.VECTORS} tile"
print(f"from the first bar to minibi's: {share[ours] / share['Python, three loops']:,.0f} times as fast")
assert share["Python, three loops"] < share["Numba, three loops"] < share["Numba, loops swapped"] < share[ours]

# %% [markdown]
# How near can one come from Python? So near. And every step can be explained by numbers measured *before* it was
# written: how fast that many sums can go if they wait for each other (part 1, first picture), and how fast bytes can
# come from where they lie (second picture). The smaller of the two is the ceiling.

# %%
tile_bytes = 4 * K * matmul.PANEL
explained = [  # sums in flight, rows that share a load, what is read again and again
    ("one vector", 1, 1, WHOLE),
    ("packed panels", 1, 1, TILE),
    ("four vectors", 4, 1, PANEL),
    (ours, matmul.ROWS * matmul.VECTORS, matmul.ROWS, tile_bytes),
]
rows = []
for name, sums, shared, size in explained:
    waits, bytes_ = by_count[sums], shared / 2 * bandwidth(size)
    rows.append((name, sums, f"{waits:.0f}", in_bytes(size), f"{bytes_:.0f}", f"{min(waits, bytes_):.0f}"))
    rows[-1] += (f"**{final[name]:.0f}**",)
draw_table(["", "sums", "GFLOP/s they allow", "b is read from", "GFLOP/s that allows", "the smaller", "measured"], rows)

points = [(name, shared / 2, final[name], size) for name, _, shared, size in explained]
roofline(points, "The same steps under the roof, by operations per byte of b", {"peak": peak})

# %% [markdown]
# Each step removes one limit, and the next one takes over, until only the peak is left. The ceilings are rough. A speed
# can be a little *above*, since the core is clever enough to begin the next block while the last sum of this one is
# still on its way. And the first one stays below, since our bandwidth is that of reading in order, which it does not.

# %% [markdown]
# ## 3 · The order of a sum
#
# A float32 keeps 24 bits. Whatever does not fit is rounded off, after every single addition, so it matters which
# numbers meet first:

# %%
big, one = np.float32(2**24), np.float32(1)
print(f"(2²⁴ + 1) - 2²⁴ = {(big + one) - big:.0f}      (2²⁴ - 2²⁴) + 1 = {(big - big) + one:.0f}")
assert (big + one) - big == 0 and (big - big) + one == 1

products = a[0] * b[:, 0]  # what one element of our matrix product adds up
exact = math.fsum(products.tolist())
shuffled = rng.permuted(np.tile(products, (3000, 1)), axis=1)
sums = np.add.accumulate(shuffled, axis=1)[:, -1]  # one number after the other, in 3000 orders

fig, ax = plt.subplots(figsize=(8, 2.8))
errors = (sums.astype(np.float64) - exact) * 1e6
ax.hist(errors, bins=80, color=ink.sky)
ax.axvline(0, color=ink.black, lw=1)
ax.set(title=f"The same {K} numbers added up in 3000 orders; their exact sum is {exact:.5f}")
ax.set(xlabel="error of the sum, in millionths", ylabel="orders")
plt.show()

print(f"{len(np.unique(sums))} different sums; none is off by more than {np.abs(errors).max():.0f} millionths")
print(f"near {exact:.1f}, one float32 and the next are {np.spacing(np.float32(exact)) * 1e6:.1f} millionths apart")
assert len(np.unique(sums)) > 10 and np.abs(errors).max() < 200

# %% [markdown]
# No order is wrong, and all errors are tiny. But they are *different*, and this has a consequence that many have
# stumbled over: a library that picks its kernel by the shape of the matrix adds in another order when a matrix has
# another number of rows. Then a text gets slightly different numbers depending on which other texts are computed
# with it. Two equal texts may get unequal vectors, and what was a tie is one no more.
#
# We compute the *first* row of products with 1, 2, …, 64 rows and compare its bits with those of the 64 rows.

# %%
row_counts = np.arange(1, 65)
x = a[:64]
strips = {}
for width, turned in ((1536, False), (384, False), (64, False), (1536, True), (64, True)):
    w = np.ascontiguousarray(b[:, :width])
    kept = np.ascontiguousarray(w.T).T if turned else w  # the same matrix, stored by columns
    packed = matmul.pack(w)
    name = f"384 → {width}" + (", b stored by columns" if turned else "")
    whole = x @ kept
    strips[f"NumPy  {name}"] = [np.array_equal((x[:m] @ kept)[0], whole[0]) for m in row_counts]
    if not turned:
        wide = packed.shape[0] * packed.shape[2]
        whole = by_library(x, packed, wide)
        strips[f"minibi  {name}"] = [np.array_equal(by_library(x[:m], packed, wide)[0], whole[0]) for m in row_counts]

fig, ax = plt.subplots(figsize=(9, 2.6))
for i, same in enumerate(strips.values()):
    ax.bar(row_counts, 0.7, bottom=i - 0.35, width=0.8, color=[ink.grey if s else ink.red for s in same])
ax.set_yticks(range(len(strips)), list(strips), family="monospace", size=8)
ax.set_xticks([1, 8, 16, 24, 32, 40, 48, 56, 64])
ax.set(title="Does the first row change its bits? (red: yes)", xlabel="rows computed together", xlim=(0, 65))
ax.tick_params(axis="y", length=0)
ax.spines[:].set_visible(False)
ax.invert_yaxis()
plt.show()

for name, same in strips.items():
    print(f"{name}: other bits at {64 - sum(same)} of the 64 row counts")
assert all(all(same) for name, same in strips.items() if name.startswith("minibi"))

# %% [markdown]
# Where the picture shows no red for NumPy, its BLAS keeps one order for these shapes on this processor; nobody promised
# it. minibi promises: the same text gives the same bits, alone or in any batch. How does the kernel keep that? Look at
# the tile again. Each lane of each register is the sum of *one* element of $c$, and takes its products one by one,
# $k = 0, 1, 2, \dots$ How many rows there are decides how many such sums run side by side, never what is in them. That
# is so strict that NumPy can repeat it, bit for bit. A product of two float32 is exact in float64, so one rounding of
# the sum is what an fma does:

# %%
total = np.zeros(N, np.float32)
for k in range(K):
    product = a[0, k].astype(np.float64) * b[k].astype(np.float64)  # exact: 24 bits times 24 bits
    total = (total + product).astype(np.float32)

assert np.array_equal(total, by_library(a[:1], library_panels)[0])
assert np.array_equal(total, by_library(a, library_panels)[0])
print("minibi's first row, and the sum taken in order: the same bits in all", N, "columns")
print(f"NumPy's, of one row alone: the same bits in {(a[:1] @ b == total).mean():.0%} of them;", end=" ")
print(f"of all {M} rows: in {(a @ b == total)[0].mean():.0%}")

# %% [markdown]
# (Rounding to float64 and then to float32 is not always the same as rounding once, but almost always; here always.)
#
# Sums that run *across* lanes need a rule as well, and it is a fixed tree: lane $i$ meets lane $i + 8$, then $i + 4$,
# and so on, on processors with narrower registers too.

# %%
show_source(simd.sum_lanes, simd._fold)

# %% [markdown]
# ## 4 · Functions without a library
#
# Between matrix products a model needs a few functions: $2^x$ for softmax, GELU for the feed-forward part. Libraries of
# C have them, but each of its own kind, with its own bits, and mostly for one number at a time. On sixteen lanes we may
# use `+`, `*`, fma, min, max, and whatever can be done with bits. That suffices.
#
# ### $2^x$
#
# Split $x = n + r$, with $n$ the nearest whole number and $r$ in $[-\frac12, \frac12]$. Then $2^x = 2^n \cdot 2^r$. A
# float32 *is* a fraction times $2^{\text{exponent}}$: multiplying by $2^n$ means adding $n$ to the exponent bits. And
# $2^r$ on so short an interval is nearly a polynomial.
#
# For the nearest whole number there is a trick. Near $1.5 \cdot 2^{23}$ two neighbouring float32 are exactly 1 apart.
# Add that number, and rounding does the work; the lowest bits of the sum *are* $n$.

# %%
from minibi.kernels import functions

show_source(functions.exp2, functions.polynomial)

magic = np.float32(simd.ROUND)
assert magic == 1.5 * 2**23 and np.spacing(magic) == 1
rows = []
for x in np.array([2.75, 0.3, -1.4], np.float32):
    shifted = x + magic
    n, r = int(shifted.view(np.int32)) - int(magic.view(np.int32)), x - (shifted - magic)
    power = np.float32(sum(term * float(r) ** i for i, term in enumerate(functions._EXP2)))
    moved = np.int32(power.view(np.int32) + (n << 23)).view(np.float32)
    rows.append((f"{x:.2f}", f"{shifted:.0f}", f"…{int(shifted.view(np.int32)) & 0xFFFF:016b}", n, r, power, moved))
    assert np.isclose(moved, 2.0 ** float(x), rtol=2e-7, atol=0)
draw_table(["x", "x + magic", "its lowest bits", "n", "r", "2^r", "exponent + n"], rows)


# %% [markdown]
# ### GELU
#
# $\mathrm{GELU}(x) = x\,\Phi(x)$, where $\Phi(x)$ is the probability that a standard normal number is below $x$. The
# textbook formula, $\frac x2\big(1 + \mathrm{erf}(x / \sqrt 2)\big)$, has a weak side: for negative $x$, $\mathrm{erf}$
# comes near to $-1$, and $1 + \mathrm{erf}$ loses digit after digit. So write it with the *tail* $\Phi(-|x|)$:
#
# $$ \mathrm{GELU}(x) = \max(x, 0) - |x|\,\Phi(-|x|) $$
#
# For positive $x$ a small number is subtracted from $x$, for negative $x$ from 0: nothing cancels. The tail falls much
# too fast for a polynomial, but a high power of a straight line falls as fast. Divide the tail by $(7.5 - a)^{16}$, and
# what is left is tame: a polynomial $q$ of degree ten follows it. To the sixteenth power is four squarings, and where
# the line arrives at 0, so does the tail.

# %%
show_source(functions.minus_tail, functions.gelu)


def on_lanes(function: Callable[[simd.Lanes], simd.Lanes]) -> Callable[..., None]:
    """A function of the library on whole arrays: a compiled (x, out), sizes multiples of sixteen."""

    @intrinsic
    def each(typing_context, x, n, out):
        def generate(context, builder, signature, args):
            x, n, out = args
            with Loop(builder, n, step=LANES) as loop:
                at = builder.mul(loop.index, i64(4))
                y = function(simd.load(builder, builder.add(x, at)))
                simd.store(builder, y, builder.add(out, at))
                loop.next()
            return context.get_dummy_value()

        return types.void(*[types.intp] * 3), generate

    @njit
    def compiled(x, out):
        each(x.ctypes.data, x.size, out.ctypes.data)

    return compiled


def computed(function: Callable[..., None], x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    function(x, out)
    return out


fast_exp2, fast_gelu = on_lanes(functions.exp2), on_lanes(functions.gelu)
erf, erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)

x = np.linspace(-8, 8, 1 << 14, dtype=np.float32)
wide = x.astype(np.float64)
tail = 0.5 * erfc(np.abs(wide) / math.sqrt(2)).astype(np.float64)  # Phi(-|x|)
gelu_exact = np.maximum(wide, 0) - np.abs(wide) * tail
gelu_textbook = x * np.float32(0.5) * (1 + erf(x / np.float32(math.sqrt(2))).astype(np.float32))
error_exp2 = computed(fast_exp2, x) / np.exp2(wide) - 1
error_gelu = computed(fast_gelu, x) - gelu_exact
error_textbook = gelu_textbook - gelu_exact

fig, axes = plt.subplots(2, 2, figsize=(10, 6))
r = np.linspace(-0.5, 0.5, 1001)
axes[0, 0].plot(r, 1e9 * (np.polyval(functions._EXP2[::-1], r) / 2**r - 1), color=ink.blue)
axes[0, 0].axhline(0, color=ink.black, lw=0.5)
axes[0, 0].set(title="The polynomial for $2^r$, in float64", xlabel="r", ylabel="relative error, billionths")
axes[0, 1].plot(x[::8], 1e9 * error_exp2[::8], ".", ms=2, color=ink.blue)
axes[0, 1].axhline(1e9 * 2**-24, color=ink.red, lw=1, ls="--", label="half a last bit")
axes[0, 1].axhline(-1e9 * 2**-24, color=ink.red, lw=1, ls="--")
axes[0, 1].set(title="$2^x$ in float32", xlabel="x", ylabel="relative error, billionths", ylim=(-150, 150))
axes[0, 1].legend(loc="lower right")
depth = np.linspace(0, 6, 300)
line = (1 - depth / functions._FAR) ** 16
tail_of_depth = 0.5 * erfc(depth / math.sqrt(2)).astype(np.float64)
axes[1, 0].plot(depth, tail_of_depth, color=ink.grey, lw=2, label="Φ(−a)")
axes[1, 0].plot(depth, line, color=ink.grey, lw=1, ls="--", label="(1 − a / 7.5) to the power 16")
axes[1, 0].plot(depth, tail_of_depth / line, color=ink.blue, lw=2, label="their quotient")
q_of_depth = -(functions._FAR**16) * np.polyval(functions._TAIL[::-1], depth)
axes[1, 0].plot(depth[::15], q_of_depth[::15], "o", color=ink.red, ms=4, label="q(a), to scale")
axes[1, 0].set(title="A tail, and what a polynomial can follow", xlabel="a", yscale="log", ylim=(1e-6, 100))
axes[1, 0].legend(loc="lower left")
axes[1, 1].plot(x[::6], 1e9 * error_textbook[::6], ".", ms=2, color=ink.orange, label="the textbook formula")
axes[1, 1].plot(x[::6], 1e9 * error_gelu[::6], ".", ms=2, color=ink.blue, label="minibi")
axes[1, 1].set(title="GELU in float32", xlabel="x", ylabel="error, billionths", xlim=(-7, 3), ylim=(-200, 200))
axes[1, 1].legend(loc="upper left", markerscale=5)
plt.show()

below = x < -3
print(f"2^x: largest relative error {np.abs(error_exp2).max():.1e}; half a last bit is {2**-24:.1e}")
print(f"GELU below -3: off by at most {np.abs(error_gelu[below]).max():.1e}, by the textbook ", end="")
print(f"{np.abs(error_textbook[below]).max():.1e}")
middle = np.abs(x) < 1
print(f"GELU from -1 to 1: {np.abs(error_gelu[middle]).max():.1e}, by the textbook ", end="")
print(f"{np.abs(error_textbook[middle]).max():.1e}")
assert np.abs(error_exp2).max() < 1.5e-7 and np.abs(error_gelu).max() < 3e-7
assert np.abs(error_gelu[below]).max() < np.abs(error_textbook[below]).max() / 2
assert np.abs(error_gelu[middle]).max() > np.abs(error_textbook[middle]).max()

y = np.empty_like(x)
times = in_turns({
    "GELU": lambda: fast_gelu(x, y), "2^x": lambda: fast_exp2(x, y), "np.exp2": lambda: np.exp2(x, out=y),
})  # fmt: skip
print("nanoseconds per number: ", ",  ".join(f"{n} {np.median(t) / x.size * 1e9:.2f}" for n, t in times.items()))

# %% [markdown]
# For $2^x$ the polynomial errs by a few billionths; what remains is the rounding of float32 itself. GELU is a
# compromise. In the middle the textbook formula, given a perfect erf, is the more exact; ours stays within 0.3
# millionths there, and far below zero it errs much less. And since these are our own additions and multiplications in
# our own order, they give the same bits on every processor.
#
# ## 5 · Bytes
#
# A vector register holds sixteen float32, or sixty-four bytes. If a product could do with bytes, one instruction would
# do four times as much. Do we need all those digits?
#
# ### Quantization
#
# To squeeze a row of numbers into bytes, take its smallest and its largest, and lay 256 marks between them. Every
# number becomes the nearest mark:
#
# $$ x \approx \text{scale} \cdot (\text{code} - \text{zero}), \qquad \text{code} \in \{0, \dots, 255\} $$
#
# `zero`, the **zero point**, is the mark at which 0 lies, so that a 0 stays exactly 0. Let us look at two rows that the
# model really computes on its way: the state of one token after three layers, and what the GELU of the next layer makes
# of it.

# %%
from minibi import BiEncoder
from minibi.environment import thread_count
from minibi.kernels import int8
from minibi.models import bert
from minibi.nn import fused, plain
from minibi.store.tensors import read_weights
from minibi.text.batches import pack

show_source(plain.quantize, int8.quantize_row)

model = BiEncoder("all-MiniLM-L6-v2")
config = model.config
assert (config.channels, config.feed_forward) == (K, N)

study = model.study("start another program and capture its output")
stored = bert.canonical(read_weights(model.modules.transformer))
readable = bert.read_params(stored, config, plain)
layer = readable.layers[3]
norm1 = (layer.norm1_g, layer.norm1_b, config.eps)
h = study.states[3]
attended = plain.attend(*plain.qkv(h, layer.qkv_w, layer.qkv_b, config.heads), np.array([0, len(h)]))
h = plain.linear_add_norm(attended, h, layer.out_w, layer.out_b, *norm1)
up = plain.linear_gelu(h, layer.up_w, layer.up_b)

token = study.tokens.index("program")
fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), width_ratios=[1, 1, 1.1])
both = {"A state, 384 numbers": h[token], "After GELU, 1536 numbers": up[token]}
for ax, (what, row) in zip(axes, both.items(), strict=False):
    whole = np.append(row, 0)[None]  # `quantize` leaves out one channel: here a zero at the end, so none that counts
    codes, scale, zero = (part[0] for part in plain.quantize(whole, channel=len(row)))
    codes, scale, zero = codes[:-1], scale.item(), zero.item()
    print(f"{what}: from {row.min():.2f} to {row.max():.2f}, one step is {scale:.4f}, zero point {zero:.0f}")
    assert codes.min() == 0 and codes.max() == 255
    assert np.abs(scale * (codes - zero) - row).max() <= 0.501 * scale
    ax.hist(row, bins=60, color=ink.sky)
    ax.axvline(0, color=ink.red, lw=1)
    ax.set(xlabel="value", ylabel="how many", yscale="log")
    ax.set_title(what, pad=20)
    marks = ax.secondary_xaxis("top")
    marks.set_xticks([scale * (code - zero) for code in (0, zero, 255)], ["0", f"{zero:.0f}", "255"])
    marks.tick_params(labelsize=8, color=ink.red, labelcolor=ink.red, pad=1)
    marks.spines["top"].set_visible(False)
near_zero = np.linspace(-4 * scale, 6 * scale, 1000)
axes[2].plot(near_zero, near_zero, color=ink.grey, lw=1)
axes[2].step(near_zero, scale * (np.clip(np.rint(near_zero / scale + zero), 0, 255) - zero), color=ink.blue, lw=1)
inside = np.abs(row - scale) < 5 * scale
axes[2].plot(row[inside], (scale * (codes - zero))[inside], "o", ms=3.5, color=ink.blue)
axes[2].set(xlabel="after GELU", ylabel="what its byte stands for")
axes[2].set_title("Close up: each number to its mark", pad=20)
plt.show()

state, mark = np.sort(h[token]), scale
print(f"the state without its farthest number: from {state[1]:.2f} to {state[-1]:.2f}")
channel = np.abs(h).argmax(axis=1)
print("where each token of the question has its farthest number:", ", ".join(f"channel {i}" for i in channel))
assert state[1] - state[0] > state[-1] - state[1] and up.min() > -0.18
assert np.bincount(channel).max() > len(h) / 2

# %% [markdown]
# In the middle the zero point earns its keep: GELU never goes below -0.17, and no mark is wasted there. On the left is
# what makes quantization hard. *One* number lies far from all the others, and more than half of the marks are spent on
# the empty space between. It is no accident of this token: most of them have such an **outlier**, and in the same
# channel. Each token gets a scale of its own, so that at least the outlier of one does not spoil the others. And since
# it is always the same channel, it can be taken out: the library lets one channel of each matrix stay float. Its range
# then is that of the rest, and its product, one multiplication for each result, is added at the end
# (Dettmers et al. 2022 do so with many channels).
#
# Weights are easier: they lie about zero on both sides, so they become signed bytes, $w \approx \text{scale} \cdot
# \text{byte}$, with a scale for each column.
#
# ### Whole numbers
#
# The product of a row and a column is then
#
# $$ \sum_k x_k w_k \approx \text{scale}_x\,\text{scale}_w
# \Big( \sum_k \text{code}_k\, \text{byte}_k - \text{zero} \sum_k \text{byte}_k \Big) $$
#
# The first sum is where all the work is, and it is made of whole numbers. Nothing is rounded, so order does not matter
# at all, and every processor gets the same sum. The second depends on the weights alone and is known before.
#
# `dot_bytes` is the instruction: sixteen lanes of 32 bits, and in each of them four products of bytes are added to what
# is there. Where a processor lacks it, the same is done in small steps.

# %%
show_source(simd.dot_bytes, int8.pack8, plain.linear)

outlier = np.bincount(channel).argmax()
weight = plain.matrix8(stored["encoder.layer.3.intermediate.dense.weight"], outlier)  # the matrix that goes up to 1536
assert weight.codes.shape == (K, N)
codes, scales, zeros = plain.quantize(h, outlier)
assert scales.mean() < 0.7 * plain.quantize(np.pad(h, ((0, 0), (0, 1))), K)[1].mean()  # the rest gets finer steps
wanted = codes.astype(np.int64) @ weight.codes.astype(np.int64)


def whole_sums(codes: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """codes @ signed by the library's kernel; scales of one and zero points of zero leave the bare sums."""
    empty = np.abs(signed).max(axis=1).argmin()  # the channel that stays float has no bytes
    whole, columns = int8.pack8(signed.astype(np.float32), empty)
    out, no_bias = np.empty((len(codes), N), np.float32), np.zeros(N, np.float32)
    terms = np.tile(np.float32([1, 0, 0, 0]), (len(codes), 1))  # scale, zero point, value of that channel
    int8.linear8(codes, terms, K, whole, columns, no_bias, out, matmul.NONE, out)
    return out


assert (np.abs(weight.codes).max(axis=0) == 127).all()  # so `pack8` keeps these bytes as they are
assert 255 * 127 * K < 2**24  # every such sum is a whole number that float32 can hold
order = rng.permutation(K)
assert np.array_equal(whole_sums(codes, weight.codes), wanted)
assert np.array_equal(whole_sums(np.ascontiguousarray(codes[:, order]), weight.codes[order]), wanted)
print(f"{wanted.size:,} sums of bytes, in two orders: exactly the whole numbers, the largest of them {wanted.max():,}")

# %% [markdown]
# How fast? First the bare instruction, in a loop like the one of part 1. (Each sum is one of its own factors, so that
# the compiler cannot compute a product beforehand.)


# %%
def byte_loop(count: int) -> Callable[..., int]:
    """A compiled (turns, x) with `count` independent sums of sixteen lanes, four products each."""

    @intrinsic
    def spin(typing_context, turns, x):
        def generate(context, builder, signature, args):
            turns, x = args
            factor = simd.splat(builder, x).bits()
            start = [simd.Lanes(builder, ir.Constant(simd.ints, [i + 1] * LANES)) for i in range(count)]
            with Loop(builder, turns, start) as loop:
                after = [simd.dot_bytes(builder, total.value, total.value, factor) for total in loop.carried]
                loop.next(*[simd.Lanes(builder, total) for total in after])
            result, *others = (total.value for total in loop.results)
            for other in others:
                result = builder.add(result, other)
            return builder.extract_element(result, ir.IntType(32)(0))

        return types.int32(types.int64, types.float32), generate

    @njit
    def compiled(turns, x):
        return spin(turns, x)

    return compiled


spinning_bytes = byte_loop(best)
codes, terms = np.empty((M, K), np.uint8), np.empty((M, 4), np.float32)
byte_panels, columns = int8.pack8(b)


def multiply_bytes() -> None:
    int8.linear8(codes, terms, K, byte_panels, columns, no_bias, c, matmul.NONE, c)


def quantize_rows() -> None:
    int8.quantize(a, 0, codes, terms)


quantize_rows()
multiply_bytes()
off = np.linalg.norm(c - truth) / np.linalg.norm(truth)
measured = speeds({
    "float32: the bare instruction": spinning(best),
    "float32: the kernel": (write_c, OPERATIONS),
    "bytes: the bare instruction": (lambda: spinning_bytes(TURNS, two), TURNS * best * 8 * LANES),
    "bytes: the kernel": (multiply_bytes, OPERATIONS),
    "bytes: rows to bytes, and the kernel": (lambda: (quantize_rows(), multiply_bytes()), OPERATIONS),
})  # fmt: skip
slowest = measured["float32: the bare instruction"]
peaks = {"float32": slowest, "bytes": measured["bytes: the bare instruction"]}
rows = [
    (name, f"{speed:.0f}", f"{speed / peaks[name.partition(':')[0]]:.0%}", f"{speed / slowest:.2f}")
    for name, speed in measured.items()
]
draw_table(["", "billions of operations per second", "share of its own peak", "times the float32 peak"], rows)
print("This processor has the instruction:", target.has_byte_dot())
print(f"The product from bytes is off by {off:.2%} of its size.")
assert off < 0.02

# %% [markdown]
# Where the processor has the instruction, expect the second peak to be about four times the first. (A little more can
# be noise, or a clock that goes faster when less is multiplied. Without the instruction, its line shows the small steps
# that stand in for it, and the kernel may even do them a little better.) At this pace whatever stands around the
# products begins to count: compare the last two lines.
#
# ### What it costs in accuracy
#
# Random numbers do not tell what becomes of a *text*. So: 200 passages of the standard library's documentation, each
# turned into a vector twice, by layers in float32 and by layers in bytes. (Products with weights are nearly all that a
# layer computes; norms stay in float32 in both, attention goes by whole numbers of 16 bits beside the bytes.)

# %%
from minibi.app.stdlib_docs import stdlib_docs

MODULES = ["subprocess", "threading", "random", "datetime", "time", "shutil", "math", "itertools", "functools", "re"]
MODULES += ["set", "list", "dict"]
docs = [doc for doc in stdlib_docs() if doc.name.partition(".")[0] in MODULES and len(doc.text) < 600]
docs = docs[:: max(1, len(docs) // 200)][:200]
passages = [f"{doc.name}\n{doc.text}" for doc in docs]

model8 = BiEncoder("all-MiniLM-L6-v2", compute="int8")
vectors = model.encode_document(passages, truncation="silent")
vectors8 = model8.encode_document(passages, truncation="silent")

cosine_error = 1 - (vectors.astype(np.float64) * vectors8).sum(axis=1)  # all vectors have length one
likeness, likeness8 = vectors @ vectors.T, vectors8 @ vectors8.T
lengths = np.array([len(ids) for ids in model.tokenizer.encode(passages, truncation="silent")])
weights = sum(w.size for layer in readable.layers for w in (layer.qkv_w, layer.out_w, layer.up_w, layer.down_w))
by_weights, by_attention = 2 * weights * lengths.sum(), 4 * K * config.layers * (lengths**2).sum()
print(f"{by_weights / (by_weights + by_attention):.1%} of all multiplications and additions are products with weights")
assert by_weights > 9 * by_attention

others = ~np.eye(len(passages), dtype=bool)
change = (likeness8 - likeness)[others]


def best_ten(likeness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each passage, the ten others most like it, and by how much the tenth is ahead of the eleventh."""
    likeness = np.where(others, likeness, -np.inf)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :11]
    ahead = np.take_along_axis(likeness, order, axis=1)
    return order[:, :10], ahead[:, 9] - ahead[:, 10]


(ten, ahead), (ten8, _) = best_ten(likeness), best_ten(likeness8)
kept = np.array([np.isin(x, y).sum() for x, y in zip(ten, ten8, strict=True)])

fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2))
axes[0].hist(cosine_error * 1000, bins=30, color=ink.sky)
axes[0].set(title="Vectors from bytes", xlabel="1 - cosine with the float32 vector,\nthousandths", ylabel="passages")
axes[0].set_xlim(left=0)
bars = axes[1].bar(range(6, 11), [(kept == k).sum() for k in range(6, 11)], color=ink.sky)
axes[1].bar_label(bars)
axes[1].set(title="What is left of a top ten", xlabel="of the ten, how many are the same", ylabel="passages")
axes[2].hist(np.abs(change), bins=np.linspace(0, 0.04, 41), density=True, color=ink.orange, alpha=0.7)
axes[2].hist(ahead, bins=np.linspace(0, 0.04, 41), density=True, histtype="step", color=ink.blue, lw=1.5)
axes[2].text(0.3, 0.85, "how much a score changes", color=ink.orange, transform=axes[2].transAxes)
axes[2].text(0.3, 0.65, "how far the tenth is\nahead of the eleventh", color=ink.blue, transform=axes[2].transAxes)
axes[2].set(title="Why places change", xlabel="difference of two cosines", yticks=[])
plt.show()

print(f"{len(passages)} passages: cosine error {cosine_error.mean():.1e} on average, {cosine_error.max():.1e} at most")
print(f"of their top tens {kept.mean() / 10:.1%} is the same;", end=" ")
print(f"{(ten[:, 0] == ten8[:, 0]).mean():.0%} have the same passage at the top")
print(f"a score changes by {np.abs(change).mean():.4f} on average")
print(f"where all ten stayed, the tenth was ahead by {np.median(ahead[kept == 10]):.4f} (median), where not,", end=" ")
print(f"by {np.median(ahead[kept < 10]):.4f}")
assert cosine_error.mean() < 1.5e-3 and cosine_error.max() < 4e-3
assert kept.min() >= 6 and kept.mean() > 9.5
assert np.median(ahead[kept < 10]) < np.median(ahead[kept == 10])

# %% [markdown]
# Bytes change every score a little, and where the tenth and the eleventh are nearly equal, they may change places. It
# is rarely a matter of relevant or not. (Of one or two hundred passages one can learn what kind of error it is; how
# much it costs a search is measured on thousands of judged questions.) And in return:

# %%
some = [passage for passage in passages if 200 < len(passage) < 600][:5]
times = in_turns({
    "float32": lambda: model.encode(some, threads=1), "bytes": lambda: model8.encode(some, threads=1),
})  # fmt: skip
ratio = np.median(times["float32"] / times["bytes"])
print(f"{len(some)} passages from text to vector: {np.median(times['float32']) * 1000:.0f} ms in float32,", end=" ")
print(f"{np.median(times['bytes']) * 1000:.0f} ms in bytes: {ratio:.1f} times as fast")

assert np.array_equal(model8.encode(passages[7]), vectors8[7])  # the promise of part 3 holds for bytes as well

short_gelu = computed(on_lanes(functions.gelu_short), x) - gelu_exact
print(f"largest error of gelu_short: {np.abs(short_gelu).max():.0e}; the marks of the row above lie {mark:.4f} apart")
assert np.abs(short_gelu).max() < mark / 30

# %% [markdown]
# What is not a product with weights gains less or nothing: attention has no scale for each row and goes by numbers of
# 16 bits (`minibi/kernels/attention16.py`), norms and the cutting into tokens take their time as before. And one thing
# in passing: numbers that are about to become bytes need not be known to seven digits, so the kernel for bytes has a
# shorter GELU.
#
# ## 6 · One short question
#
# So far many rows shared what was read: 192 tokens, and each number of $b$ was used 192 times. Somebody who types a
# question sends a handful of tokens, and waits. Each weight of the model is then read for a handful of
# multiplications: $2\,T$ operations per weight for $T$ tokens. In part 1 that was the slope of the roof, not the ridge.
# And on the slope, not arithmetic counts but *bytes*. So we take the same model with its weights kept in four bytes
# each, in two (float16, as they come in the file), and in one.

# %%
from collections import Counter

from minibi.models.running import Runner
from minibi.nn.replay import Program, Recorder

show_source(simd.load_halves)

full = {name: np.asarray(tensor, np.float32) for name, tensor in stored.items()}
runners = {
    "float32": Runner(full, config, model.folder),
    "float16": Runner(stored, config, model.folder),
    "bytes": Runner(stored, config, model.folder, "int8"),
}


def weight_bytes(params: bert.Params) -> int:
    """Of the matrices in the layers, all of which are read in every pass."""
    matrices = (w for layer in params.layers for w in (layer.qkv_w, layer.out_w, layer.up_w, layer.down_w))
    return sum(w.panels.nbytes for w in matrices)


size = {name: weight_bytes(runner.params) for name, runner in runners.items()}
assert size["float32"] == 4 * weights and size["float16"] == 2 * weights and size["bytes"] == weights

long_text = model.tokenizer.encode([" ".join(passages)], truncation="silent")[0]
counts = (1, 3, 6, 9, 12, 18, 24, 48, 96)  # of tokens
batches = {count: pack([long_text[:count]]) for count in counts}


def passing(name: str, count: int) -> Callable[[], object]:
    return lambda: runners[name].states(batches[count])


times = in_turns({(name, count): passing(name, count) for count in counts for name in runners}, rounds=5)
taken = {key: float(np.median(t)) for key, t in times.items()}
compute_peak = {"float32": peaks["float32"], "float16": peaks["float32"], "bytes": peaks["bytes"]}

rows = []
for name in runners:
    reading_alone = size[name] / bandwidth(size[name]) / 1e6
    computing_alone = 2 * 9 * weights / compute_peak[name] / 1e6
    milliseconds = [reading_alone, computing_alone, *(taken[name, count] * 1000 for count in (1, 6, 9))]
    rows.append((name, in_bytes(size[name]), *(f"{t:.2f}" for t in milliseconds)))
what = ["ms to read them", "ms to compute for 9 tokens, at the peak", "measured, 1 token", "6 tokens", "9 tokens"]
draw_table(["weights as", "size", *what], rows)

fig, ax = plt.subplots(figsize=(8.5, 4))
for name, colour, marker in (("float32", ink.blue, "o"), ("float16", ink.green, "D"), ("bytes", ink.red, "^")):
    ax.plot(counts, [taken[name, count] * 1000 for count in counts], color=colour, marker=marker, label=name)
    ax.axhline(size[name] / bandwidth(size[name]) / 1e6, color=colour, lw=1, ls="--")
ax.plot([], [], color=ink.grey, lw=1, ls="--", label="reading the weights alone")
ax.set(xscale="log", yscale="log", title="From token ids to states", xlabel="tokens", ylabel="milliseconds")
ax.set_xticks(counts, map(str, counts))
low, high = ax.get_ylim()
round_numbers = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low < t < high]
ax.set_yticks(round_numbers, map(str, round_numbers))
ax.minorticks_off()
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# Dashed is the time that reading the weights takes, whatever is done with them: the slope of the roof, drawn as time.
# With few tokens a curve is flat, not far above its dashed line: six tokens go through the registers in the same tile
# as one, and cost about the same. Fewer bytes are then a gain by themselves. That is why the library keeps float16
# weights as they are, and widens them in the registers while there are few rows. With many tokens float32 and float16
# do the same arithmetic, and should meet. (Reading and computing do not overlap perfectly, so the measured time is more
# than the larger of the two.)
#
# ### Python out of the way
#
# There is another cost that a short question feels. A forward pass is some forty calls from Python to compiled code,
# each with arrays to make and shapes to check. So `minibi` runs a model once with verbs that compute nothing and write
# down what they were asked to do (`Recorder`), and afterwards *replays* the list in a single call of compiled code.
# The model itself is the same function either way.

# %%
from minibi.kernels import program

show_source(bert.layers, Recorder.linear_add_norm, program.run, program.perform)

known = ("EMBED", "NORM", "LINEAR", "QUANTIZE", "LINEAR8", "ATTEND", "ATTEND16")
names = {getattr(program, name): name for name in known}
params = {name: runner.params for name, runner in runners.items()}
for name in ("float16", "bytes"):
    recorder = Recorder()
    result = bert.layers(recorder, params[name], config, None, None, None, None)
    recorded = [names[step[program.OP]] for step in recorder.steps]
    print(f"{name}: {len(recorded)} operations:", ", ".join(f"{n} {what}" for what, n in Counter(recorded).items()))
    print("   ", " → ".join(recorded[:8]), "→ ...")
    short = batches[9]
    replayed = Program(recorder, result, (config.heads, K // config.heads))
    once, many = replayed.run(short.ids, short.types, short.starts), bert.forward(fused, params[name], config, short)
    assert np.array_equal(once, many)  # the same kernels, so the same bits


def verb_by_verb(name: str) -> Callable[[], object]:
    return lambda: bert.forward(fused, params[name], config, short)


contenders = {(name, "replayed"): passing(name, 9) for name in ("float16", "bytes")}
contenders |= {(name, "verbs"): verb_by_verb(name) for name in ("float16", "bytes")}
times = in_turns(contenders, rounds=9)
for name in ("float16", "bytes"):
    slow, fast = (np.median(times[name, how]) * 1000 for how in ("verbs", "replayed"))
    print(
        f"{name}, 9 tokens: {slow:.2f} ms verb by verb, {fast:.2f} ms replayed; the difference is {slow - fast:.2f} ms"
    )

# %% [markdown]
# ### Many hands
#
# Many texts go to many threads whole. One long text need not wait on a single one: what `perform` does can be cut into
# `parts` by columns, rows or heads, and no number in one part depends on another of the same operation. Threads take
# the next part from a counter; the one condition is that all parts of the operation before are done
# (`program.run_shared`). A thread that comes late finds less to do, and the bits are those of one.

# %%
count = min(2, thread_count())
for name in ("float16", "bytes"):
    for tokens in (9, 96):
        one, batch = runners[name], batches[tokens]
        assert np.array_equal(one.states(batch), one.states(batch, threads=count))
        by_threads = {t: partial(one.states, batch, threads=t) for t in {1, count}}
        shared = in_turns(by_threads, rounds=9, now=time.perf_counter)  # here the clock on the wall is what counts
        gain = np.median(shared[1]) / np.median(shared[count])
        print(f"{name}, one text of {tokens} tokens on {count} threads: {gain:.1f} times as fast")

# %% [markdown]
# Finally the whole lesson in one picture: the product of part 2, and the model on 9 and on 96 tokens. (Its weights, 10
# to 40 MB, are drawn under the roof for 64 MB; the true one is a little higher.)

# %%
points = [(ours, matmul.ROWS / 2, final[ours], PANEL)]
for name, count in (("float32", 9), ("float16", 9), ("bytes", 9), ("float32", 96), ("bytes", 96)):
    operations = 2 * count * weights
    speed = operations / taken[name, count] / 1e9
    points.append((f"{name}, {count} tokens", operations / size[name], speed, MEMORY))
title = "A short question lives on the slope, many tokens under the ridge"
roofline(points, title, {"float32": peak, "bytes": peaks["bytes"]})

# %% [markdown]
# ## 7 · Poke it
#
# Change things and see what happens. The `.py` beside this notebook is its source, and everything is imported from
# `minibi`: to look into a function, put it into `show_source(...)`.
#
# 1. **Other tiles.** Which of 12 × 2, 4 × 6 and 3 × 8 should be good, by loads per fma and vectors held? Predict, then
#    measure. *Hint:* the first is begun below; make panels as wide as you need, of a width that divides 1536.
# 2. **A sum that does not care.** Sort the products of part 3 by size before adding them up. Or carry along what each
#    addition rounded off (Kahan's summation). How many different sums remain? *Hint:* after `t = s + x`, the part of
#    `x` that was lost is `x - (t - s)`, computed in float32.
# 3. **A cheaper $2^x$.** Leave out the last coefficient, or the last two. How large does the error get, and would
#    you see it in a vector? *Hint:* write your own function of a `Lanes` with `functions.polynomial(r,
#    functions._EXP2[:-1])` and put it through `on_lanes`. (Cut-off coefficients are not the best of their degree.)
# 4. **Without the outlier.** Set the farthest number of the state in part 5 to zero. How much finer do the marks of all
#    the others get? *Hint:* `plain.quantize` returns the scale.
# 5. **Six bits, four bits.** Quantize the states of part 5 to fewer marks, multiply in float32, and plot the error of
#    the product against the number of bits. *Hint:* `np.rint((x - low) / step) * step + low`.
# 6. **Smaller vectors.** Instead of computing in bytes, *store* bytes, or single bits: `model.encode(passages,
#    precision="int8")` and `"binary"`. What is left of the top tens? *Hint:* for bits, count those that differ:
#    `np.unpackbits` of `precision="ubinary"`.
# 7. **Another processor.** Start the notebook with `NUMBA_CPU_NAME=haswell` and
#    `NUMBA_CPU_FEATURES=+avx,+avx2,+fma,+f16c` in the environment, and AVX-512 is gone. Which pictures change? Which
#    numbers do not change by a single bit?

# %%
# Your turn. For a start on the first one:
for shape in ((6, 4), (12, 2)):
    function, where = sums_in_registers(*shape), panels[shape[1]].ctypes.data
    mine = (lambda f=function, w=where: f(at_a, w, at_c, M, K, N), OPERATIONS)
    measured = speeds({"peak": spinning(best), "mine": mine})
    loads, held = sum(shape) / math.prod(shape), math.prod(shape) + shape[1] + 1
    print(f"{shape}: {loads:.2f} loads per fma, {held} vectors held,", end=" ")
    print(f"{measured['mine'] / measured['peak']:.0%} of the peak")

# %% [markdown]
# ### Where to read on
#
# | what | file |
# |:---|:---|
# | sixteen lanes as one value, loops, sums across lanes | `minibi/kernels/simd.py` |
# | what the processor can do | `minibi/kernels/target.py` |
# | the matrix product, and what is done with its results on the way out | `minibi/kernels/matmul.py` |
# | exp2, GELU, sigmoid, tanh | `minibi/kernels/functions.py` |
# | bytes | `minibi/kernels/int8.py` |
# | attention, norms | `minibi/kernels/attention.py`, `minibi/kernels/attention16.py`, `minibi/kernels/norm.py` |
# | a forward pass as a list of operations | `minibi/nn/replay.py`, `minibi/kernels/program.py` |
# | the same measurements with other libraries beside them | `benchmarks/roofline.py`, `benchmarks/encoder.py` |
