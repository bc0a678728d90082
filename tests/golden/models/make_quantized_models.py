#!/usr/bin/env python3
"""Make tiny checkpoints as other quantizers publish them, and record what they mean.

One random model is quantized by rounding to nearest, once for each published layout: FP8 E4M3 with
one scale, one per row and one per block (DeepSeek, Mistral in both its layouts, compressed-tensors),
integers packed by compressed-tensors, GPTQ and AWQ.  Each folder holds config.json (or params.json),
the weights and expected.json: as make_golden_models.py writes it, computed by the transformers
library from the dequantized weights in float32, and the hash of every dequantized matrix
(FNV-1a, 64 bits, of its float32 values row by row): those must come out to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil

import torch
import transformers
from make_golden_models import PROMPT, interleave, maker, native_name, randomize, run, write_json
from safetensors.torch import save_file
from transformers import AutoConfig

CONFIG = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 64, "hidden_size": 128,
          "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
          "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
          "attention_dropout": 0.0, "sliding_window": None, "rope_theta": 10000.0}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # value i of a word is output AWQ_ORDER[i] of its eight


def pack(values, bits, dim):
    """Unsigned values into int32 words along a dimension, the first value lowest; missing ones are zero."""
    per_word = 32 // bits
    values = values.movedim(dim, -1).to(torch.int64)
    values = torch.nn.functional.pad(values, (0, -values.shape[-1] % per_word))
    shifts = torch.arange(per_word) * bits
    words = (values.reshape(*values.shape[:-1], -1, per_word) << shifts).sum(-1)
    return (words - ((words >> 31) << 32)).to(torch.int32).movedim(-1, dim).contiguous()


def pack_awq(values):
    """Along the last dimension, in AWQ's order."""
    return pack(values.reshape(*values.shape[:-1], -1, 8)[..., AWQ_ORDER].reshape(values.shape), 4, -1)


def integers(w, bits, group, symmetric, scale_type):
    """Unsigned q, zero [rows, groups] and scale [rows, groups] with w about (q - zero) * scale."""
    rows, cols = w.shape
    group = cols if group in (0, -1) or group > cols else group
    parts, top, half = w.reshape(rows, cols // group, group), 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        scale = (parts.abs().amax(-1) / (half - 0.5)).to(scale_type)
        zero = torch.full_like(scale, half, dtype=torch.int64)
    else:
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scale = ((high - low) / top).to(scale_type)
        zero = (-low / scale.float()).round().clamp(0, top).to(torch.int64)
    q = ((parts / scale.float()[..., None]).round() + zero[..., None]).clamp(0, top).to(torch.int64)
    value = (q - zero[..., None]).float() * scale.float()[..., None]
    return q.reshape(rows, cols), zero, scale, value.reshape(rows, cols)


def fp8(w, scale):
    """E4M3 values of w / scale, scale broadcast to w."""
    q = (w / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return q, q.float() * scale


# ---- layouts: (name of the matrix without .weight, weights) -> tensors, dequantized


def fp8_tensor(name, w):
    scale = (w.abs().max() / 448).to(torch.bfloat16)
    q, value = fp8(w, scale.float())
    return {name + ".weight": q, name + ".weight_scale_inv": scale, name + ".activation_scale": torch.tensor(0.05, dtype=torch.bfloat16)}, value


def fp8_block(name, w, block=32):
    rows, cols = w.shape
    scale = torch.empty(-(-rows // block), -(-cols // block))
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            scale[i, j] = w[i * block:(i + 1) * block, j * block:(j + 1) * block].abs().max() / 448
    full = scale.repeat_interleave(block, 0)[:rows].repeat_interleave(block, 1)[:, :cols]
    q, value = fp8(w, full)
    return {name + ".weight": q, name + ".weight_scale_inv": scale}, value


def fp8_block_128(name, w):
    return fp8_block(name, w, 128)


def fp8_channel(name, w):
    scale = (w.abs().amax(1, keepdim=True) / 448).to(torch.bfloat16)
    q, value = fp8(w, scale.float())
    return {name + ".weight": q, name + ".weight_scale": scale, name + ".input_scale": torch.tensor([0.05], dtype=torch.bfloat16)}, value


def packed(bits, group, symmetric, scale_type):
    def layout(name, w):
        q, zero, scale, value = integers(w, bits, group, symmetric, scale_type)
        tensors = {name + ".weight_packed": pack(q, bits, 1), name + ".weight_scale": scale, name + ".weight_shape": torch.tensor(w.shape)}
        if not symmetric:
            tensors[name + ".weight_zero_point"] = pack(zero, bits, 0)
        return tensors, value
    return layout


def bytes_of(symmetric):
    def layout(name, w):
        q, zero, scale, value = integers(w, 8, -1, symmetric, torch.float32)
        tensors = {name + ".weight": (q - 128).to(torch.int8), name + ".weight_scale": scale}
        if not symmetric:
            tensors[name + ".weight_zero_point"] = (zero - 128).to(torch.int8)
        return tensors, value
    return layout


def gptq(bits, group, symmetric, v2=False, desc_act=False):
    def layout(name, w):
        order = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(w.shape[0])) if desc_act else torch.arange(w.shape[1])
        w, back = w[:, order], order.argsort()  # quantized in this order, stored in the other
        q, zero, scale, value = integers(w, bits, group, symmetric, torch.float16)
        if not v2:  # zero points are stored less one: those that are zero can not be
            zero = zero.clamp(min=1)
            size = w.shape[1] // zero.shape[1]
            value = (q - zero.repeat_interleave(size, 1)).float() * scale.float().repeat_interleave(size, 1)
        columns = torch.arange(w.shape[1], dtype=torch.int32) // (w.shape[1] // zero.shape[1])
        q, value, columns = q[:, back], value[:, back], columns[back]
        return {name + ".qweight": pack(q.T, bits, 0), name + ".qzeros": pack(zero.T - (0 if v2 else 1), bits, 1),
                name + ".scales": scale.T.contiguous(), name + ".g_idx": columns.to(torch.int32)}, value
    return layout


def awq(group):
    def layout(name, w):
        q, zero, scale, value = integers(w, 4, group, False, torch.float16)
        return {name + ".qweight": pack_awq(q.T), name + ".qzeros": pack_awq(zero.T), name + ".scales": scale.T.contiguous()}, value
    return layout


def compressed(format_name, **weights):
    return {"quant_method": "compressed-tensors", "format": format_name, "quantization_status": "compressed", "ignore": ["lm_head"], "kv_cache_scheme": None,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"dynamic": False, **weights}, "input_activations": None, "output_activations": None}}}


MODELS = {
    "fp8-block": (fp8_block_128, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
    "fp8-block-32": (fp8_block, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}),
    "fp8-tensor": (fp8_tensor, {"quant_method": "fp8", "activation_scheme": "static", "dequantize": False, "weight_block_size": None,
                                "modules_to_not_convert": ["lm_head"]}),
    "fp8-channel": (fp8_channel, compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True)),
    "w4a16": (packed(4, 128, True, torch.bfloat16), compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128, symmetric=True)),
    "w4a16-asymmetric": (packed(4, 32, False, torch.float16),
                         compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False)),
    "w8a16": (packed(8, 64, True, torch.float16), compressed("pack-quantized", num_bits=8, type="int", strategy="group", group_size=64, symmetric=True)),
    "w8a8": (bytes_of(True), compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True)),
    "w8a8-asymmetric": (bytes_of(False), compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False)),
    "gptq": (gptq(4, 32, True), {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
    "gptq-asymmetric": (gptq(4, 64, False), {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False, "checkpoint_format": "gptq"}),
    "gptq-v2-8bit": (gptq(8, -1, False, v2=True), {"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False, "sym": False,
                                                  "checkpoint_format": "gptq_v2"}),
    "gptq-desc-act": (gptq(4, 32, False, desc_act=True), {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}),
    "awq": (awq(128), {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}),
    "awq-32": (awq(32), {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}),
}
NATIVE = "fp8-tensor"  # also in Mistral's own layout


def fnv(tensor):
    value = 0xcbf29ce484222325
    for byte in tensor.contiguous().numpy().tobytes():
        value = (value ^ byte) * 0x100000001b3 & (1 << 64) - 1
    return f"{value:016x}"


def quantize(model, layout):
    """The checkpoint's tensors; the model becomes what they mean."""
    tensors, hashes = {}, {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "_proj" not in name:
                tensors[name] = p.to(torch.bfloat16)
                p.copy_(tensors[name].float())
                continue
            made, value = layout(name[:-len(".weight")], p.detach().clone())
            tensors.update(made)
            hashes[name] = fnv(value)
            p.copy_(value)
    return {name: t.contiguous() for name, t in tensors.items()}, hashes


def write(folder, tensors, file):
    save_file(tensors, os.path.join(folder, file), metadata={"format": "pt"})


def make_native(folder, tensors):
    """Mistral's names and layout of the tensors of FP8 with one scale."""
    ends = {".weight_scale_inv": ".qscale_weight", ".activation_scale": ".qscale_act"}
    native = {}
    for name, t in tensors.items():
        stem, dot, end = name.rpartition(".")
        new = native_name(stem) + ends.get(dot + end, dot + end)
        if new.endswith(("wq.weight", "wk.weight")):
            t = interleave(t.view(torch.uint8), CONFIG["head_dim"]).contiguous().view(torch.float8_e4m3fn)
        native[new] = t
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    write(folder, native, "consolidated.safetensors")
    c = CONFIG
    write_json(os.path.join(folder, "params.json"), {
        "dim": c["hidden_size"], "n_layers": c["num_hidden_layers"], "head_dim": c["head_dim"], "hidden_dim": c["intermediate_size"], "n_heads": c["num_attention_heads"],
        "n_kv_heads": c["num_key_value_heads"], "norm_eps": c["rms_norm_eps"], "vocab_size": c["vocab_size"], "rope_theta": c["rope_theta"],
        "max_position_embeddings": c["max_position_embeddings"], "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}, indent=2)


def make(name, root):
    layout, quantization = MODELS[name]
    folder, best = os.path.join(root, name), None
    for seed in range(1, 41):
        generator = torch.Generator().manual_seed(seed)
        model = maker(CONFIG).from_config(AutoConfig.for_model(**CONFIG), dtype=torch.float32, attn_implementation="eager").eval()
        randomize(model, generator)
        tensors, hashes = quantize(model, layout)
        prompt = [1] + torch.randint(3, CONFIG["vocab_size"], (PROMPT - 1,), generator=generator).tolist()
        logits, greedy, margin = run(model, prompt)
        score = margin if len(set(greedy)) >= 6 else margin - 10
        if best is None or score > best[0]:
            best = (score, tensors, {
                "model": name, "seed": seed, "transformers": transformers.__version__, "computed_in": "float32 on the CPU, eager attention, from dequantized weights",
                "prompt_ids": prompt, "greedy_ids": greedy, "greedy_smallest_margin": round(margin, 5), "hashes": hashes,
                "logits": [[float(f"{v:.6g}") for v in row] for row in logits.tolist()]})
        if score > 0.2:
            break
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    write(folder, best[1], "model.safetensors")
    write_json(os.path.join(folder, "config.json"), {**CONFIG, "quantization_config": quantization}, indent=2)
    write_json(os.path.join(folder, "expected.json"), best[2], separators=(",", ":"))
    if name == NATIVE:
        make_native(folder + "-native", best[1])
    size = sum(os.path.getsize(os.path.join(folder, n)) for n in os.listdir(folder))
    return f"{name}: {size / 1000:.0f} kB, seed {best[2]['seed']}, smallest margin {best[2]['greedy_smallest_margin']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the model folders")
    parser.add_argument("names", nargs="*", help="models to make; all of them if none is named")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.names or MODELS:
        print(make(name, args.out), flush=True)


if __name__ == "__main__":
    main()
