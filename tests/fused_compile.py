"""Compiles every kernel that the engine would launch on a Hopper GPU, without one; run by test_fused.py.

The engine runs as it would there, up to the launch, which compiles to machine code for sm_90 instead. Prints one JSON
line per kernel: what the interpreter does not know, its registers, spills, shared memory and tensor instructions.
"""

import json
import os
import re
import subprocess
import tempfile

os.environ["TRITON_INTERPRET"] = "0"  # asked for and off: the engine takes kernels on the CPU, to be compiled

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from infomax import critics, objectives
from infomax.scores import Scores, set_precision
from infomax.scores.gpu import fused
from infomax.scores.gpu import kernels as fused_kernels

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32"}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
seen = set()


def build(kernel, arguments, constants):
    """As Triton specialises a call: constants, addresses and lengths that are multiples of 16, ones and Nones."""
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
    options = {name: given.pop(name) for name in OPTIONS if name in given}
    signature, constexprs, attributes = {}, {}, {}
    for place, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
        value = given.pop(name)
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constexprs[name] = "constexpr", value
            continue
        signature[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        if (value.data_ptr() if isinstance(value, torch.Tensor) else value) % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    assert not given, "arguments that the kernel does not have"
    key = kernel.__name__, str((signature, constexprs, options, attributes))
    if key in seen:
        return
    seen.add(key)
    source = ASTSource(kernel, signature, constexprs, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(built.asm["ptx"])
        file.flush()
        assembler = triton.knobs.nvidia.ptxas_blackwell.path
        command = [assembler, "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    print(json.dumps({
        "kernel": kernel.__name__, "forms": str(constexprs.get("FORMS", constexprs.get("TERMS"))),
        "features": signature.get("x"), "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilt": int(re.findall(r"(\d+) bytes spill stores", said)[0]), "shared": built.metadata.shared,
        "wgmma": built.asm["ptx"].count("wgmma.mma_async"), "serialised": "are serialized" in said,
        "ran": {k: v for k, v in constexprs.items() if k in ("CHUNKS", "BD", "BM", "BN", "CARRY")},
    }), flush=True)  # fmt: skip


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments, **constants: build(self.kernel, arguments, constants)


def step(text, d, n):
    x, y = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    views = text == "views"
    critic = critics.Cosine(learn="bias" if "symmetric" in text else False)  # with an offset and its gradient
    s = Scores.of_views(critic, x, y) if views else Scores(critic, x, y)
    value = objectives.objective("InfoNCE()" if views else text)(s)
    torch.autograd.grad(value, [x, y])


def main():
    fused._capable = lambda device: True
    for name in ("reduce", "pull", "reduce_block", "slope_block"):
        setattr(fused_kernels, name, Compiled(getattr(fused_kernels, name)))
    every = ("InfoNCE()", "InfoNCE(symmetric=True)", "SMILE()", "Anchor()", "views")
    plan = {
        "bf16": {16: ["InfoNCE()"], 128: every, 192: ["SMILE()"], 384: ["InfoNCE()", "JS()"], 512: every},
        "fp32": {32: ["JS()"], 128: every, 512: ["InfoNCE(symmetric=True)", "SMILE()"]},
    }
    for precision, dims in plan.items():
        set_precision(precision)
        for d, texts in dims.items():
            for text in texts:
                step(text, d, 528 if d == 128 else 515)


if __name__ == "__main__":
    main()
