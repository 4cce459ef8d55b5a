"""What the interpreter cannot tell of the Triton kernels: that they compile for a GPU. No GPU is needed for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from rlgen.crosscoder.kernels import fused, gpu

def compiled(kernel, sizes, options=None, aligned=(), **types):
    signature = types | dict.fromkeys(sizes, "constexpr")
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return compile(ASTSource(kernel, signature, sizes, attributes), target=GPUTarget("cuda", 90, 32), options=options)

places = {"ends": "*i64", "columns": "*i64"}
for real in ("*fp32", "*fp64"):
    for add in (True, False):
        types = {**places, "values": real, "matrix": real, "out": real, "width": "i32"}
        assert compiled(gpu._times, {"ADD": add, "BLOCK": 512}, **types)
    types = {**places, "left": real, "right": real, "out": real, "width": "i32"}
    assert compiled(gpu._dots, {"floor": None, "ABOVE": False, "SHARES": 4, "BLOCK": 512}, **types)
types = {**places, "left": "*fp32", "right": "*fp32", "floor": "*fp32", "out": "*fp32", "width": "i32"}
assert compiled(gpu._dots, {"ABOVE": True, "SHARES": 4, "BLOCK": 512}, **types)
assert compiled(gpu._round_rows, {"BLOCK": 512}, matrix="*fp32", out="*i16", norm="*fp32", width="i32")
for pre in ("*bf16", "*fp32"):
    types = {"pre": pre, "floor": "*fp32", "features": "i32"}
    assert compiled(gpu._count_above, {"BLOCK": 512}, ends="*i64", **types)
    assert compiled(gpu._list_above, {"BLOCK": 512}, **places, **types)
types = {"x": "*bf16", "weight": "*bf16", "floor": "*fp32", "words": "*i32", "ends": "*i64"}
types |= dict.fromkeys(("batch", "features", "width"), "i32")
for tile in fused.TILES:
    sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "WIDEN": False}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    found = compiled(fused._compare, sizes, options, aligned=types, **types)
    assert "wgmma" in found.asm["ptx"]  # the matrix units take it
    assert found.metadata.shared <= 227 * 1024
assert compiled(fused._list, {"BLOCK": 1024}, words="*i32", features="i32", **places)
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compile_for_a_hopper_gpu(tmp_path: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "compiled", done.stderr[-3000:]
