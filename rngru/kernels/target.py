"""The processor that Numba compiles for: how wide its vector registers are, and how many there are.

What Numba is told decides (``NUMBA_CPU_NAME``, ``NUMBA_CPU_FEATURES``), not what this processor could
do: a cache that many machines share may be compiled for the oldest of them. So the compiler is asked
to translate a few lines of vector code, and the registers and instructions that it uses are read off.

=========  =====  =========  ==========================================
name       bytes  registers  where
=========  =====  =========  ==========================================
AVX-512       64         32  servers; desktops with AMD Zen 4 and later
AVX           32         16  with fused multiply-add ("AVX2"): most others
SSE2          16         16  every x86-64
NEON          16         32  ARM
=========  =====  =========  ==========================================

**Which bits are the same.** Where the processor fuses a multiplication and an addition into one
rounding (FMA), a product adds up one chain of them for each number, whatever the width of a register;
so two targets with FMA compute the same bits in float32. Without FMA each multiplication is rounded
by itself: targets without FMA agree with each other, and differ from the others in the last bits.
float64, which serves checks, calls the C library for tanh, so it agrees within one system only.

>>> TARGET.vector * 8 in (128, 256, 512)
True
"""

from dataclasses import dataclass
from typing import Final

from llvmlite import binding, ir
from numba.core.registry import cpu_target


@dataclass(frozen=True, slots=True)
class Target:
    """What is compiled for.

    Parameters
    ----------
    name: the instruction set, as in the table above.
    vector: bytes of a vector register.
    registers: how many of them there are.
    fused: whether multiply-adds are rounded once.
    """

    name: str
    vector: int
    registers: int
    fused: bool

    @property
    def rounding(self) -> str:
        """Which results have the same bits: ``"fused"`` or ``"separate"``."""
        return "fused" if self.fused else "separate"

    def __str__(self) -> str:
        return f"{self.name} {'with' if self.fused else 'without'} FMA"


_KINDS: Final = (
    ("zmm", "AVX-512", 64, 32),
    ("ymm", "AVX", 32, 16),
    ("xmm", "SSE2", 16, 16),
)


def _found() -> Target:
    """Translate ``x * x + x`` on 512 bits, once as two instructions and once fused."""
    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    vector = ir.VectorType(ir.FloatType(), 16)
    module = ir.Module()
    module.triple = triple
    fma = ir.Function(module, ir.FunctionType(vector, [vector] * 3), "llvm.fma.v16f32")
    for name in ("apart", "fused"):
        kind = ir.FunctionType(ir.VoidType(), [vector.as_pointer()])
        function = ir.Function(module, kind, name)
        builder = ir.IRBuilder(function.append_basic_block())
        x = builder.load(function.args[0])
        apart = name == "apart"
        sums = builder.fadd(builder.fmul(x, x), x) if apart else builder.call(fma, [x, x, x])
        builder.store(sums, function.args[0])
        builder.ret_void()
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=processor, features=features, opt=1
    )
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    fused = "vfmadd" in assembly or "fmla" in assembly
    for register, name, width, count in _KINDS:
        if f"%{register}" in assembly:
            return Target(name, width, count, fused)
    return Target("NEON", 16, 32, fused)


TARGET: Final = _found()
"""What this process compiles for."""
