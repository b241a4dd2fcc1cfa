"""Small models of every family that timm builds here, and slow transcriptions of the methods' formulas.

The transcriptions are written from the formulas, token by token in Python floats, and share nothing with the
code under test.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

SMALL = {"img_size": 40, "patch_size": 8, "num_classes": 7, "embed_dim": 24, "depth": 4, "num_heads": 3}

FAMILIES = {
    "vit": (VisionTransformer, {}),
    "no_class_token": (VisionTransformer, {"class_token": False, "global_pool": "avg"}),
    "average_pool": (VisionTransformer, {"global_pool": "avg"}),
    "distilled": (VisionTransformerDistilled, {}),
    "deit3": (VisionTransformer, {"no_embed_class": True, "init_values": 0.5}),
    "clip": (VisionTransformer, {"pre_norm": True}),
    "registers": (VisionTransformer, {"reg_tokens": 3, "init_values": 0.5, "no_embed_class": True}),
    "even_registers": (VisionTransformer, {"reg_tokens": 4}),
    "qk_norm": (VisionTransformer, {"qk_norm": True, "qkv_bias": False}),
    "attention_norm": (VisionTransformer, {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "siglip": (VisionTransformer, {"class_token": False, "global_pool": "map"}),
}


def random_model(family, seed=0):
    """A model of the family whose weights are large enough for attention to be uneven; skips what timm lacks."""
    kind, arguments = FAMILIES[family]
    torch.manual_seed(seed)
    try:
        model = kind(**dict(SMALL, **arguments))
    except (TypeError, AssertionError) as error:
        pytest.skip("this timm cannot build {}: {}".format(family, error))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "qkv" in name else 0.15)
        elif not name.endswith("gamma"):
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.1)
    return model.eval()


@pytest.fixture(params=sorted(FAMILIES))
def family_model(request):
    return random_model(request.param)


@pytest.fixture
def build_family():
    return random_model


def softmax(values):
    top = max(values)
    raised = [math.exp(value - top) for value in values]
    return [value / sum(raised) for value in raised]


def attention_rows(q, k, scale, sizes):
    """S[h][i][j] of one image; ``sizes`` weigh the keys, or are None."""

    def logit(h, i, j):
        dot = sum(float(a) * float(b) for a, b in zip(q[h][i], k[h][j])) * scale
        return dot if sizes is None else dot + math.log(sizes[j])

    tokens = range(len(q[0]))
    return [[softmax([logit(h, i, j) for j in tokens]) for i in tokens] for h in range(len(q))]


def highest(scores, count):
    """Keys of the ``count`` highest, best first."""
    return sorted(scores, key=lambda key: -scores[key])[:count]


def topk_scores(S, prefix, has_class_token):
    heads, tokens = len(S), len(S[0])
    rows = [0] if has_class_token else range(tokens)
    return {j: sum(S[h][i][j] for h in range(heads) for i in rows) / (heads * len(rows)) for j in range(prefix, tokens)}


def pomt_scores(S, v, prefix):
    heads, tokens, width = len(S), len(S[0]), len(v[0][0])
    patches = range(prefix, tokens)
    a = {j: sum(max(S[h][i][j] for h in range(heads)) for i in patches) for j in patches}
    top = max(a.values())
    value = softmax([sum(max(float(v[h][j][c]) for h in range(heads)) for c in range(width)) for j in range(tokens)])
    return {j: a[j] / top + value[j] for j in patches}


def weighted_mean(members, weights, x):
    total = sum(weights[j] for j in members)
    return [sum(weights[j] * x[j][c] for j in members) / total for c in range(len(x[0]))], total


def topk(S, k, v, x, sizes, prefix, has_class_token, kept):
    chosen = highest(topk_scores(S, prefix, has_class_token), kept - prefix)
    return [x[j] for j in list(range(prefix)) + chosen], None


def pomt(S, k, v, x, sizes, prefix, has_class_token, kept):
    weights = sizes or [1.0] * len(x)
    stay = list(range(prefix)) + highest(pomt_scores(S, v, prefix), kept - prefix - 1)
    pooled, total = weighted_mean([j for j in range(len(x)) if j not in stay], weights, x)
    return [x[j] for j in stay] + [pooled], [weights[j] for j in stay] + [total]


def tome(S, k, v, x, sizes, prefix, has_class_token, kept):
    heads, tokens, width = len(k), len(x), len(k[0][0])
    weights = sizes or [1.0] * tokens
    metric = [[sum(float(k[h][i][c]) for h in range(heads)) / heads for c in range(width)] for i in range(tokens)]
    length = [math.sqrt(sum(value * value for value in row)) for row in metric]
    best = {}
    for a in range(0, tokens, 2):
        likeness = {
            b: sum(p * q for p, q in zip(metric[a], metric[b])) / (length[a] * length[b])
            for b in range(1, tokens, 2)
            if b >= prefix
        }
        if a >= prefix and likeness:
            winner = highest(likeness, 1)[0]
            best[a] = (likeness[winner], winner)
    merged = highest({a: value for a, (value, _) in best.items()}, tokens - kept)
    assert len(merged) == tokens - kept
    stay = [j for j in range(prefix, tokens, 1) if j % 2 == 0 and j not in merged]
    out, out_sizes = [x[j] for j in range(prefix)], [weights[j] for j in range(prefix)]
    out, out_sizes = out + [x[j] for j in stay], out_sizes + [weights[j] for j in stay]
    for b in range(1, tokens, 2):
        if b >= prefix:
            mean, total = weighted_mean([b] + [a for a in merged if best[a][1] == b], weights, x)
            out.append(mean)
            out_sizes.append(total)
    return out, out_sizes


def embedded(model, images):
    patches = model.patch_embed(images)
    tokens = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    if model.no_embed_class:
        patches = patches + model.pos_embed
    x = torch.cat([token for token in tokens if token is not None] + [patches], 1)
    return model.norm_pre(x if model.no_embed_class else x + model.pos_embed)


def reduced_logits(model, schedule, images):
    """The reduced model in double precision, one image at a time, attention and reduction by the formulas."""
    model = model.double()
    rows = []
    for image in images.double():
        x, sizes = embedded(model, image[None]), None
        for block, kept in zip(model.blocks, schedule.keep):
            attn, tokens = block.attn, x.shape[1]
            normed = block.norm1(x)
            q, k, v = attn.qkv(normed)[0].reshape(tokens, 3, attn.num_heads, -1).permute(1, 2, 0, 3)
            if hasattr(attn, "q_norm"):
                q, k = attn.q_norm(q), attn.k_norm(k)
            weigh = sizes if schedule.method == "tome" else None
            S = attention_rows(q.tolist(), k.tolist(), q.shape[-1] ** -0.5, weigh)
            mixed = (torch.tensor(S, dtype=torch.float64) @ v).transpose(0, 1).reshape(1, tokens, -1)
            if hasattr(attn, "norm"):
                mixed = attn.norm(mixed)
            x = x + block.ls1(attn.proj(mixed))
            if kept < tokens:
                out, sizes = METHODS[schedule.method](
                    S,
                    k.tolist(),
                    v.tolist(),
                    x[0].tolist(),
                    sizes,
                    model.num_prefix_tokens,
                    model.cls_token is not None,
                    kept,
                )
                x = torch.tensor([out], dtype=torch.float64)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        rows.append(model.forward_head(model.norm(x)))
    return torch.cat(rows)


METHODS = {"topk": topk, "pomt": pomt, "tome": tome}


@pytest.fixture
def slow():
    return SimpleNamespace(
        methods=METHODS,
        attention_rows=attention_rows,
        topk_scores=topk_scores,
        pomt_scores=pomt_scores,
        reduced_logits=reduced_logits,
    )
