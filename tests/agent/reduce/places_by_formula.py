"""What attention computes with the places of its tokens, token by token in Python floats, from the formulas.

Shares nothing with the code under test, and reads no table that timm made: of a model, its settings and weights alone.
"""

import math

import torch


def rowcol(model, place):
    """Row and column of the patch at ``place`` among all tokens."""
    columns = model.patch_embed.grid_size[1]
    return divmod(place - prefix_of(model), columns)


def prefix_of(model):
    return getattr(model, "num_prefix_tokens", 1)


def angles(model, settings, number, head, place, width):
    """The d/2 angles by which the channels of a head are turned at a place; None: not at all.

    ``settings``: what the model was built with.
    """
    if place is None or place < prefix_of(model):
        return None
    kind, (height, columns) = settings.get("rope_type", "cat"), model.patch_embed.grid_size
    first, second = rowcol(model, place)
    sizes = [height, columns]
    if kind == "dinov3":
        first, second = (2 * (at + 0.5) / size - 1 for at, size in zip((first, second), sizes))
    elif kind == "cat":
        offset, reference = settings.get("rope_grid_offset", 0.0), settings.get("ref_feat_shape")
        first, second = first + offset, second + offset
        if reference is not None:
            first, second = first / height * reference, second / columns * reference
    if settings.get("rope_grid_indexing", "ij") == "xy":
        first, second = second, first
    if kind == "mixed":
        along, across = model.rope.freqs.detach().double()[:, number, head].tolist()
        return [first * a + second * b for a, b in zip(along, across)]
    temperature, bands = settings.get("rope_temperature", 10000.0), width // 4
    frequencies = [temperature ** (-band / bands) for band in range(bands)]
    if kind == "dinov3":
        frequencies = [2 * math.pi * frequency for frequency in frequencies]
    return [at * frequency for at in (first, second) for frequency in frequencies]


def turned(vector, by, half):
    """``vector`` (d floats) with its pairs turned by the d/2 angles ``by``."""
    if by is None:
        return list(vector)
    out, pairs = list(vector), len(by)
    for pair, angle in enumerate(by):
        i, j = (pair, pair + pairs) if half else (2 * pair, 2 * pair + 1)
        out[i] = vector[i] * math.cos(angle) - vector[j] * math.sin(angle)
        out[j] = vector[j] * math.cos(angle) + vector[i] * math.sin(angle)
    return out


def rotated(model, settings, number, x, places):
    """``x[h][i][c]`` with each token turned by its place."""
    if not settings.get("use_rot_pos_emb"):
        return x
    half = settings.get("rope_rotate_half", False)
    return [
        [turned(row, angles(model, settings, number, h, place, len(row)), half) for row, place in zip(head, places)]
        for h, head in enumerate(x)
    ]


def pair_bias(model, number, places):
    """``bias(h, i, j)`` of the logits for two tokens' places, or None where the model has no such thing."""
    holders = [getattr(model, "rel_pos_bias", None), model.blocks[number].attn]
    tables = [getattr(holder, "relative_position_bias_table", None) for holder in holders]
    tables = [table.detach().double().tolist() for table in tables if table is not None]
    if not tables:
        return None
    height, columns = model.patch_embed.grid_size
    last = (2 * height - 1) * (2 * columns - 1) + 3

    def distance(a, b):
        if a == 0 and b == 0:
            return last - 1
        if a == 0 or b == 0:
            return last - 3 if a == 0 else last - 2
        (top, left), (below, right) = rowcol(model, a), rowcol(model, b)
        return (top - below + height - 1) * (2 * columns - 1) + left - right + columns - 1

    def bias(h, i, j):
        a, b = places[i], places[j]
        if a is None or b is None:
            return 0.0
        return sum(table[distance(a, b)][h] for table in tables)

    return bias


def projected(attn, normed):
    """q, k and v of one image, (H, N, d) each, before they are turned."""
    tokens = normed.shape[1]
    if attn.qkv is None:
        q, k, v = (
            part(normed)[0].reshape(tokens, attn.num_heads, -1).transpose(0, 1)
            for part in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
    else:
        qkv = attn.qkv(normed)[0]
        if getattr(attn, "q_bias", None) is not None:
            qkv = qkv + torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        q, k, v = qkv.reshape(tokens, 3, attn.num_heads, -1).permute(1, 2, 0, 3)
    if hasattr(attn, "q_norm"):
        q, k = attn.q_norm(q), attn.k_norm(k)
    return q, k, v


def scaled(block, half, branch):
    """LayerScale of the first or second half of a block."""
    if hasattr(block, "ls{}".format(half)):
        return getattr(block, "ls{}".format(half))(branch)
    gamma = getattr(block, "gamma_{}".format(half))
    return branch if gamma is None else gamma * branch
