"""How to run what was published, for the card: with Ollama, llama.cpp, transformers and mlx-lm."""

from __future__ import annotations


def how_to_run(kind: str, names: list[str], base: str, place: str) -> str:
    """``kind``: "gguf", "adapter", "mlx" or "merged"; ``place``: the hub's name, or a folder to be filled in."""
    parts = {"gguf": _gguf, "adapter": _adapter, "mlx": _mlx, "merged": _merged}[kind](names, base, place)
    return "\n\n".join(["## How to run it", *parts])


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _gguf(names: list[str], base: str, place: str) -> list[str]:
    file = next(name for name in names if name.endswith(".gguf"))
    written = [] if "Modelfile" in names else [f'echo "FROM ./{file}" > Modelfile']
    return [
        "Ollama, in a folder with these files:",
        _code("sh", *written, "ollama create my-model -f Modelfile", "ollama run my-model"),
        "llama.cpp (`--jinja` uses the chat template in the file, the one of the training):",
        _code("sh", f"llama-cli -m {file} --jinja -cnv", f"llama-server -m {file} --jinja"),
        "transformers with peft, and mlx-lm, read the adapter and the merged folder, not GGUF.",
    ]


def _adapter(names: list[str], base: str, place: str) -> list[str]:
    load = f'AutoModelForCausalLM.from_pretrained("{base}")'
    parts = ["transformers with peft:", _python(base, f'PeftModel.from_pretrained({load}, "{place}")', peft=True)]
    if "adapters.safetensors" in names:
        folder = "PATH/TO/THIS/FOLDER"
        parts += ["mlx-lm:", _code("sh", f'mlx_lm.generate --model {base} --adapter-path {folder} --prompt "…"')]
        return [*parts, "Ollama and llama.cpp read GGUF, which `tunesmith export` makes of the run."]
    return [*parts, "Ollama and llama.cpp read GGUF, mlx-lm the merged folder; `tunesmith export` makes both."]


def _merged(names: list[str], base: str, place: str) -> list[str]:
    return [
        "transformers (peft is not needed, the adapter is merged in):",
        _python(place, f'AutoModelForCausalLM.from_pretrained("{place}")', peft=False),
        "mlx-lm:",
        _code("sh", f'mlx_lm.generate --model {place} --prompt "…"'),
        "Ollama and llama.cpp read GGUF, which `tunesmith export` makes of the run.",
    ]


def _mlx(names: list[str], base: str, place: str) -> list[str]:
    return [
        "mlx-lm, on Apple silicon:",
        _code("sh", f'mlx_lm.generate --model {place} --prompt "…"'),
        "Ollama and llama.cpp read GGUF, transformers the merged folder; `tunesmith export` makes both.",
    ]


def _python(tokenizer: str, model: str, *, peft: bool) -> str:
    return _code(
        "python",
        *(["from peft import PeftModel"] if peft else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")',
        f"model = {model}",
        'messages = [{"role": "user", "content": "…"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0]))",
    )
