"""Small models of every family that timm builds here, and slow transcriptions of the methods' formulas.

The transcriptions are written from the formulas, token by token in Python floats, and share nothing with the
code under test. Each is given what a block shows of one image (:func:`seen`) and answers the tokens that leave, their
sizes, and which of the tokens that came each of them is; None for a joined one.
"""

import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import places_by_formula as formula

try:
    from timm.models.eva import Eva
except ImportError:  # timm 0.6
    Eva = None

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
    "eva": (Eva, {"init_values": 0.5}),
    "eva02": (
        Eva,
        {
            "use_rot_pos_emb": True,
            "ref_feat_shape": 4,
            "qkv_fused": False,
            "swiglu_mlp": True,
            "scale_mlp": True,
            "scale_attn_inner": True,
        },
    ),
    "eva02_tiny": (Eva, {"use_rot_pos_emb": True, "ref_feat_shape": 4, "swiglu_mlp": True, "mlp_ratio": 4 * 2 / 3}),
    "dinov3": (
        Eva,
        {
            "use_abs_pos_emb": False,
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "rope_temperature": 100,
            "rope_rotate_half": True,
            "num_reg_tokens": 4,
            "no_embed_class": True,
            "dynamic_img_size": True,
            "init_values": 0.5,
            "use_fc_norm": False,
        },
    ),
    "rotary_mixed": (
        Eva,
        {
            "attn_type": "rope",
            "use_rot_pos_emb": True,
            "rope_type": "mixed",
            "rope_grid_indexing": "xy",
            "rope_temperature": 10.0,
            "init_values": 0.5,
        },
    ),
    "rotary_registers": (
        Eva,
        {
            "class_token": False,
            "num_reg_tokens": 1,
            "use_abs_pos_emb": False,
            "use_rot_pos_emb": True,
            "qk_norm": True,
            "attn_only_layer_scale": True,
            "init_values": 0.5,
        },
    ),
    "perception_encoder": (
        Eva,
        {
            "attn_type": "rope",
            "class_token": False,
            "use_rot_pos_emb": True,
            "rope_grid_offset": 1.0,
            "rope_grid_indexing": "xy",
            "use_pre_transformer_norm": True,
            "global_pool": "map",
        },
    ),
    "beit": (Beit, {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.5}),
    "beit_shared": (Beit, {"use_shared_rel_pos_bias": True}),
    "beit_both": (Beit, {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": True, "init_values": 0.5}),
}


def random_model(family, seed=0):
    """A model of the family whose weights are large enough for attention to be uneven; skips what timm lacks."""
    kind, arguments = FAMILIES[family]
    if kind is None:
        pytest.skip("this timm has no Eva")
    torch.manual_seed(seed)
    try:
        model = kind(**dict(SMALL, **arguments))
    except (TypeError, AssertionError) as error:
        pytest.skip("this timm cannot build {}: {}".format(family, error))
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)
        elif parameter.dim() > 1 and "freqs" not in name:
            torch.nn.init.normal_(parameter, std=0.3 if ".attn." in name and "attn.proj" not in name else 0.15)
        elif parameter.dim() <= 1 and "gamma" not in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.1)
    model.family = family
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
    total = sum(raised)
    return [value / total for value in raised]


def attention_rows(q, k, scale, bias=None):
    """S[h][i][j] of one image; ``bias(h, i, j)`` joins the logits."""
    tokens = range(len(q[0]))
    rows = []
    for h in range(len(q)):
        rows.append([])
        for i in tokens:
            logits = [sum(a * b for a, b in zip(q[h][i], k[h][j])) * scale for j in tokens]
            rows[h].append(softmax(logits if bias is None else [x + bias(h, i, j) for j, x in enumerate(logits)]))
    return rows


def seen(S, k, v, x, sizes, prefix, has_class_token, **further):
    """What one block shows of one image: S[h][i][j], k and v[h][i][c], x[i][c] to reduce, sizes[i] or None.

    ``further``: places[i], block and depth; and what a method needs beside.
    """
    facts = {"places": list(range(len(x))), "block": 0, "depth": 1}
    facts.update(further)
    return SimpleNamespace(
        S=S, k=k, v=v, x=x, sizes=sizes, prefix=prefix, has_class_token=has_class_token, tokens=len(x), **facts
    )


def highest(scores, count):
    """Keys of the ``count`` highest, best first."""
    return sorted(scores, key=lambda key: -scores[key])[:count]


def joined(members, weights, x):
    return [sum(weights[j] * x[j][c] for j in members) for c in range(len(x[0]))]


def selected(block, scores, kept):
    stay = list(range(block.prefix)) + highest(scores, kept - block.prefix)
    return [block.x[j] for j in stay], None, stay


def random(block, kept, rank):
    """``rank``: of each place among all."""
    return selected(block, {j: rank[block.places[j]] for j in range(block.prefix, block.tokens)}, kept)


def topk_scores(block):
    heads, patches = len(block.S), range(block.prefix, block.tokens)
    rows = [0] if block.has_class_token else range(block.tokens)
    return {j: sum(block.S[h][i][j] for h in range(heads) for i in rows) / (heads * len(rows)) for j in patches}


def topk(block, kept):
    return selected(block, topk_scores(block), kept)


def with_one_more(block, scores, kept, weights):
    """The best by ``scores``, and one token made of the others by ``weights(others)``."""
    own = block.sizes or [1.0] * block.tokens
    stay = list(range(block.prefix)) + highest(scores, kept - block.prefix - 1)
    others = [j for j in range(block.tokens) if j not in stay]
    more = joined(others, weights(others, own), block.x)
    return [block.x[j] for j in stay] + [more], [own[j] for j in stay] + [sum(own[j] for j in others)], [*stay, None]


def evit(block, kept):
    scores = topk_scores(block)
    return with_one_more(block, scores, kept, lambda others, own: scores)


def pomt_scores(block):
    heads, width, patches = range(len(block.S)), range(len(block.v[0][0])), range(block.prefix, block.tokens)
    a = {j: sum(max(block.S[h][i][j] for h in heads) for i in patches) for j in patches}
    top = max(a.values())
    value = softmax([sum(max(block.v[h][j][c] for h in heads) for c in width) for j in range(block.tokens)])
    return {j: a[j] / top + value[j] for j in patches}


def pomt(block, kept):
    def shares(others, own):
        total = sum(own[j] for j in others)
        return {j: own[j] / total for j in others}

    return with_one_more(block, pomt_scores(block), kept, shares)


def mean_keys(k):
    heads, tokens, width = range(len(k)), range(len(k[0])), range(len(k[0][0]))
    return [[sum(k[h][i][c] for h in heads) / len(k) for c in width] for i in tokens]


def cosine(a, b):
    length = math.sqrt(sum(value * value for value in a)) * math.sqrt(sum(value * value for value in b))
    return sum(p * q for p, q in zip(a, b)) / length


def tome(block, kept):
    tokens, prefix, x = block.tokens, block.prefix, block.x
    own = block.sizes or [1.0] * tokens
    metric, best = mean_keys(block.k), {}
    into = [b for b in range(1, tokens, 2) if b >= prefix]
    for a in range(0, tokens, 2):
        likeness = {b: cosine(metric[a], metric[b]) for b in into}
        if a >= prefix and likeness:
            winner = highest(likeness, 1)[0]
            best[a] = (likeness[winner], winner)
    merged = highest({a: value for a, (value, _) in best.items()}, tokens - kept)
    assert len(merged) == tokens - kept
    stay = list(range(prefix)) + [a for a in range(0, tokens, 2) if a >= prefix and a not in merged]
    out, sizes = [x[j] for j in stay], [own[j] for j in stay]
    for b in into:
        members = [b] + [a for a in merged if best[a][1] == b]
        total = sum(own[j] for j in members)
        out.append(joined(members, {j: own[j] / total for j in members}, x))
        sizes.append(total)
    return out, sizes, stay + into


def passed_on(S, start, present, times):
    """``s ← Sᵀ s`` on the graph of the tokens ``present`` alone, each head: votes[h][j]."""
    columns = [[[row[j] for row in head] for j in range(len(head))] for head in S]
    votes = []
    for column in columns:
        s = {j: start[j] for j in present}
        for _ in range(times):
            s = {j: sum(column[j][i] * weight for i, weight in s.items()) for j in present}
        votes.append(s)
    return votes


def counting_heads(votes, patches):
    """Heads whose variance of mean-1 scores lies in [0.01, 0.7], or all; and the scores of all heads."""
    scores = []
    for vote in votes:
        mean = sum(vote[j] for j in patches) / len(patches)
        scores.append({j: vote[j] / mean for j in patches})
    variances = [sum((score[j] - 1) ** 2 for j in patches) / len(patches) for score in scores]
    counting = [h for h, variance in enumerate(variances) if 0.01 <= variance <= 0.7]
    return counting or list(range(len(votes))), scores


def zero_tprune_importance(block, present, times, uniform=False):
    start = [1.0] * block.tokens
    if block.has_class_token and not uniform:
        start[0] = math.sqrt(block.tokens)
    patches = [j for j in present if j >= block.prefix]
    counting, scores = counting_heads(passed_on(block.S, start, present, times), patches)
    return {j: math.sqrt(sum(scores[h][j] ** 2 for h in counting) / len(counting)) for j in patches}


def zero_tprune(block, kept, similar=10, uniform=False):
    patches, present = block.tokens - block.prefix, list(range(block.tokens))
    similar = min(similar, block.tokens - kept, patches // 2)
    scores = None
    if similar:
        scores = zero_tprune_importance(block, present, 1, uniform)
        order, metric = highest(scores, patches), mean_keys(block.k)
        more, less = order[: (patches + 1) // 2], order[(patches + 1) // 2 :]
        alike = highest({j: max(cosine(metric[j], metric[i]) for i in more) for j in less}, similar)
        present = [j for j in present if j not in alike]
        scores = {j: score for j, score in scores.items() if j in present}
    if len(present) > kept:
        times = 30 if block.block < 3 else 1 if block.block >= block.depth - 3 else 5
        scores = zero_tprune_importance(block, present, times, uniform)
    return selected(block, scores, kept)


def cropr(block, kept, queries):
    """``queries``: Q[block][m][c], as they were trained."""
    patches = range(block.prefix, block.tokens)
    return selected(
        block,
        {j: sum(a * b for query in queries[block.block] for a, b in zip(query, block.x[j])) for j in patches},
        kept,
    )


METHODS = {
    "random": random,
    "topk": topk,
    "evit": evit,
    "pomt": pomt,
    "tome": tome,
    "zero-tprune": zero_tprune,
    "cropr": cropr,
}
AFTER = ("zero-tprune", "cropr")


def embedded(model, images):
    patches, added = model.patch_embed(images), model.pos_embed
    if patches.dim() == 4:
        patches = patches.flatten(1, 2)
    tokens = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    if getattr(model, "no_embed_class", False) and added is not None:
        patches, added = patches + added, None
    x = torch.cat([token for token in tokens if token is not None] + [patches], 1)
    x = x if added is None else x + added
    return model.norm_pre(x) if hasattr(model, "norm_pre") else x


def reduced_logits(model, schedule, images, queries):
    """The reduced model in double precision, one image at a time, attention and reduction by the formulas."""
    model, further = model.double(), {}
    if schedule.method == "random":
        generator = torch.Generator().manual_seed(schedule.parameters.get("seed", 0))
        further["rank"] = torch.randperm(schedule.tokens, generator=generator).tolist()
    elif schedule.method == "cropr":
        further["queries"] = {block: query.tolist() for block, query in queries.items()}
    elif schedule.method == "zero-tprune":
        further = dict(schedule.parameters)
    proportional = schedule.method == "tome" and schedule.parameters.get("proportional", True)
    rows = []
    for image in images.double():
        x, sizes, places, last = embedded(model, image[None]), None, list(range(schedule.tokens)), {}
        for number, (block, kept) in enumerate(zip(model.blocks, schedule.keep)):
            if number == schedule.restore_before:
                last.update(zip(places, x[0]))
                places = list(range(schedule.tokens))
                x, sizes = torch.stack([last[place] for place in places])[None], None
            arriving, tokens = x, x.shape[1]
            attended, S, k, v = attended_by_formula(model, number, x, sizes if proportional else None, places)
            x = x + attended
            if schedule.method in AFTER:
                x = arriving = x + second_half(block, x)
            if kept < tokens:
                last.update(zip(places, arriving[0]))
                shown = seen(
                    S,
                    k,
                    v,
                    x[0].tolist(),
                    sizes,
                    formula.prefix_of(model),
                    model.cls_token is not None,
                    places=places,
                    block=number,
                    depth=len(model.blocks),
                )
                out, sizes, origin = METHODS[schedule.method](shown, kept, **further)
                places = [None if j is None else places[j] for j in origin]
                x = torch.tensor([out], dtype=torch.float64)
            if schedule.method not in AFTER:
                x = x + second_half(block, x)
        rows.append(model.forward_head(model.norm(x)))
    return torch.cat(rows)


def attended_by_formula(model, number, x, sizes, places):
    """What a block's attention adds to x (1, N, C), and its S, k and v; q and k turned by their places."""
    block = model.blocks[number]
    attn, tokens, normed = block.attn, x.shape[1], block.norm1(x)
    q, k, v = formula.projected(attn, normed)
    q, k = (formula.rotated(model, settings_of(model), number, one.tolist(), places) for one in (q, k))
    pairs = formula.pair_bias(model, number, places)

    def bias(h, i, j):
        return (0.0 if pairs is None else pairs(h, i, j)) + (0.0 if sizes is None else math.log(sizes[j]))

    S = attention_rows(q, k, v.shape[-1] ** -0.5, bias)
    mixed = (torch.tensor(S, dtype=torch.float64) @ v).transpose(0, 1).reshape(1, tokens, -1)
    if hasattr(attn, "norm"):
        mixed = attn.norm(mixed)
    return formula.scaled(block, 1, attn.proj(mixed)), S, k, v.tolist()


def second_half(block, x):
    return formula.scaled(block, 2, block.mlp(block.norm2(x)))


def settings_of(model):
    """What a model of :func:`random_model` was built with."""
    return FAMILIES[model.family][1]


@pytest.fixture
def slow():
    return SimpleNamespace(
        methods=METHODS,
        seen=seen,
        attention_rows=attention_rows,
        attended=attended_by_formula,
        passed_on=passed_on,
        counting_heads=counting_heads,
        reduced_logits=reduced_logits,
    )


@pytest.fixture
def queries_for():
    """Cropr's queries of each block of a model, Q[block] (M, C), as they are trained: not folded."""

    def draw(model, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {block: torch.randn(3, model.embed_dim, generator=generator) for block in range(len(model.blocks))}

    return draw
