"""What the interpreter cannot tell of the Triton kernels: that they compile for a GPU. No GPU is needed for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from rlgen.crosscoder.kernels import gpu

def compiled(kernel, sizes, **types):
    signature = types | dict.fromkeys(sizes, "constexpr")
    return compile(ASTSource(kernel, signature, sizes), target=GPUTarget("cuda", 90, 32)).asm["cubin"]

places = {"ends": "*i64", "columns": "*i64"}
for real in ("*fp32", "*fp64"):
    for add in (True, False):
        types = {**places, "values": real, "matrix": real, "out": real, "width": "i32"}
        assert compiled(gpu._times, {"ADD": add, "BLOCK": 512}, **types)
    types = {**places, "left": real, "right": real, "out": real, "width": "i32"}
    assert compiled(gpu._dots, {"SHARES": 4, "BLOCK": 512}, **types)
for pre in ("*bf16", "*fp32"):
    types = {"pre": pre, "floor": "*fp32", "features": "i32"}
    assert compiled(gpu._count_above, {"BLOCK": 512}, ends="*i64", **types)
    assert compiled(gpu._list_above, {"BLOCK": 512}, **places, **types)
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compile_for_a_hopper_gpu(tmp_path: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "compiled", done.stderr[-3000:]
