"""What the processor can do that kernels are compiled for: Numba's target, not merely the machine at hand."""

from __future__ import annotations

from numba.core.registry import cpu_target

# Processors that Numba may be told to compile for by name (NUMBA_CPU_NAME) and that have 32 registers of 512 bits.
_WIDE = ("avx512", "x86-64-v4", "icelake", "cascadelake", "cooperlake", "sapphirerapids", "znver4", "znver5")


_AVX2 = ("haswell", "broadwell", "skylake", "x86-64-v3", "znver", *_WIDE)
_VNNI = ("icelake", "cascadelake", "cooperlake", "tigerlake", "rocketlake", "sapphirerapids", "znver4", "znver5")


def target_has(feature: str, *names: str) -> bool:
    """True if the *target* Numba compiles for (not merely the machine at hand) has a feature.

    What the list of features says counts; a virtual machine may hide what its processor's name promises. The name
    decides where the list is silent.
    """
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    listed = features.split(",")
    return f"-{feature}" not in listed and (f"+{feature}" in listed or any(name in cpu for name in names))


def has_wide_registers() -> bool:
    """AVX-512: 32 registers of sixteen floats."""
    return target_has("avx512f", *_WIDE)


def has_byte_dot() -> bool:
    """AVX-512 VNNI: sixteen times four byte products and their sums in one instruction.

    Emitting that instruction for a processor without it would kill the process, hence the care about the target.
    """
    return target_has("avx512vnni", *_VNNI) and has_wide_registers()


def has_short_byte_dot() -> bool:
    """AVX-VNNI: the same for half as many, on processors without AVX-512."""
    return target_has("avxvnni", "alderlake", "raptorlake", "meteorlake", "arrowlake", "sierraforest") and has_avx2()


def widens_halves() -> bool:
    """An instruction from float16 to float32; without one LLVM would call a function that need not exist."""
    triple, *_ = cpu_target.target_context.codegen().magic_tuple()
    x86 = triple.startswith(("x86", "i686", "i386"))
    return not x86 or target_has("f16c", "ivybridge", *_AVX2)


def has_avx2() -> bool:
    return target_has("avx2", *_AVX2)


def has_wide_byte_shuffle() -> bool:
    """AVX-512 BW: 64 bytes looked up in four tables of sixteen at once."""
    return target_has("avx512bw", *_WIDE) and has_wide_registers()
