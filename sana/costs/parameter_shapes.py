"""The names and shapes of the transformer's parameters, from its config.json alone, without torch."""

from sana.costs.transformer import TIME_CHANNELS, TransformerSizes

Shapes = dict[str, tuple[int, ...]]  # by name, in the model's order


def parameter_shapes(sizes: TransformerSizes) -> Shapes:
    """Return the shape of each parameter of diffusers' SanaVideoTransformer3DModel."""
    d, patch = sizes.width, sizes.patch_size
    found: Shapes = {"scale_shift_table": (2, d)}
    found |= {"patch_embedding.weight": (d, sizes.in_channels, *patch), "patch_embedding.bias": (d,)}
    embedder = "time_embed.emb.timestep_embedder"
    found |= _linear(f"{embedder}.linear_1", d, TIME_CHANNELS) | _linear(f"{embedder}.linear_2", d, d)
    found |= _linear("time_embed.linear", 6 * d, d)
    found |= _linear("caption_projection.linear_1", d, sizes.caption_channels)
    found |= _linear("caption_projection.linear_2", d, d) | {"caption_norm.weight": (d,)}
    block = _block(sizes)
    for number in range(sizes.num_layers):
        found |= {f"transformer_blocks.{number}.{name}": shape for name, shape in block.items()}
    return found | _linear("proj_out", patch[0] * patch[1] * patch[2] * sizes.out_channels, d)


def _block(sizes: TransformerSizes) -> Shapes:
    d, hidden = sizes.width, 2 * sizes.hidden
    found: Shapes = {"scale_shift_table": (6, d)}
    found |= _attention("attn1", d, d, d, sizes, bias=sizes.attention_bias)
    if sizes.norm_affine:
        found |= {"norm2.weight": (d,), "norm2.bias": (d,)}
    found |= _attention("attn2", d, sizes.cross_width, sizes.cross_attention_dim, sizes, bias=True)
    found |= {"ff.conv_inverted.weight": (hidden, d, 1, 1), "ff.conv_inverted.bias": (hidden,)}
    found |= {"ff.conv_depth.weight": (hidden, 1, 3, 3), "ff.conv_depth.bias": (hidden,)}
    return found | {"ff.conv_point.weight": (d, hidden // 2, 1, 1), "ff.conv_temp.weight": (d, d, 3, 1)}


def _attention(name: str, width: int, inner: int, read: int, sizes: TransformerSizes, *, bias: bool) -> Shapes:
    """Return queries from `width` channels, keys and values from `read`, of `inner` in all heads, and back."""
    found: Shapes = {f"{name}.norm_q.weight": (inner,), f"{name}.norm_k.weight": (inner,)} if sizes.qk_norm else {}
    for part, channels in (("to_q", width), ("to_k", read), ("to_v", read)):
        found |= _linear(f"{name}.{part}", inner, channels, bias=bias)
    return found | _linear(f"{name}.to_out.0", width, inner)


def _linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})
