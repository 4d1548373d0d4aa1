"""The Transformer: every supported family in one definition, read top to bottom.

Config says what a checkpoint's tensors cannot; everything else (biases, gates, fused projections,
extra norms, tied output) follows from which tensors are there. Tensor names are GGUF's.

Shapes: B sequences, T tokens, L positions attended to, D model width, H heads, K key-value heads,
G = H/K, C channels a head, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tinygrad import Tensor, UOp, dtypes

from edgellm.config import Config, Layer, rows_shape
from edgellm.rope import alibi_slopes, rope_table

Position = int | UOp
"""A position or slot: a number, or a bound variable so that one compiled step serves them all."""

Linear = Callable[[Tensor, Tensor], Tensor]


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., in) times weight (out, in), summed in float32; returns (..., out)."""
    return x @ weight.cast(dtypes.float32).transpose()


Block = Mapping[str, Tensor]
"""The tensors of one layer, by the part of their name after `blk.N.`."""


def empty_rows(config: Config, layer: Layer, positions: int, slots: int) -> Tensor:
    """What one layer remembers of its past, of `config.rows_shape`.

    One row a position, so that a sequence can be cut back to any length.
    """
    shape = rows_shape(config, layer, positions, slots)
    return Tensor.zeros(*shape, dtype=dtypes.float32).contiguous().realize()


def extend(rows: Tensor, new: Tensor, slot: Position, start: Position) -> Tensor:
    """Store new (1, heads, T, width) in `rows` from position `start` of `slot` on.

    Returns the slot's rows for all positions, (1, heads, positions, width); those beyond the new
    ones are leftovers.
    """
    here = rows[slot : slot + 1, :, start : start + new.shape[2], :]
    stored = Tensor(rows.uop.after(here.uop.store(new.uop)))
    return stored[slot : slot + 1]


class Transformer:
    """A decoder over `weights`, named as in GGUF, for contexts of up to `context` positions.

    `margin` further positions may be computed, though not meant: a padded chunk's.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, Tensor],
        context: int,
        margin: int = 0,
        linear: Linear = linear,
    ) -> None:
        self.config, self.linear, self.context = config, linear, context
        self.positions = context + margin
        self.top = {name: weight for name, weight in weights.items() if not name.startswith("blk.")}
        self.blocks: list[dict[str, Tensor]] = [{} for _ in config.layers]
        for name, weight in weights.items():
            if name.startswith("blk."):
                _, index, part = name.split(".", 2)
                self.blocks[int(index)][part] = weight
        self.make_tables()

    def make_tables(self) -> None:
        """What follows from positions and heads alone."""
        config = self.config
        self.ropes = [  # (positions, 2, R/2): cosines, sines
            Tensor(rope_table(rope, self.context, self.positions)).realize()
            for rope in config.ropes
        ]
        if config.position == "learned":
            table = self.top["position_embd.weight"]  # (trained context, D)
            missing = max(self.positions - table.shape[0], 0)
            self.learned = table.pad(((0, missing), None)).contiguous().realize()
        self.slopes: Tensor | None = None
        if config.position == "alibi":
            self.slopes = Tensor(alibi_slopes(config.heads)).realize()  # (H,)

    # --- the whole ------------------------------------------------------------------------------

    def hidden(self, tokens: Tensor) -> Tensor:
        """The normed output of the last layer, (B, T, D), for whole sequences of tokens (B, T)."""
        x = self.embed(tokens)
        for block, layer in zip(self.blocks, self.config.layers, strict=True):
            x = self.block(block, layer, x)
        return self.final(x)

    def embed(self, tokens: Tensor, start: Position = 0) -> Tensor:
        """The first layer's input, (B, T, D), for tokens (B, T) at positions from `start` on."""
        x = self.top["token_embd.weight"][tokens].cast(dtypes.float32)  # (B, T, D)
        x = scaled(x, self.config.embed_scale)
        if self.config.position == "learned":
            x = x + self.learned[start : start + tokens.shape[1]]
        return x.contiguous()

    def final(self, x: Tensor) -> Tensor:
        # LFM2's files call the last norm by its embedding.
        norm = "output_norm" if "output_norm.weight" in self.top else "token_embd_norm"
        return self.norm(x, self.top, norm)  # (B, T, D)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token (..., V) from the last layer's output (..., D)."""
        scores = self.scores(hidden)
        if self.config.logit_scale != 1:
            scores = scores / self.config.logit_scale
        if "output.bias" in self.top:
            scores = scores + self.top["output.bias"]
        return softcap(scores, self.config.logit_softcap)

    def scores(self, hidden: Tensor) -> Tensor:
        tied = "output.weight" not in self.top
        weight = self.top["token_embd.weight" if tied else "output.weight"]  # (V, D)
        return self.products(hidden, [weight])[0]

    def block(
        self,
        block: Block,
        layer: Layer,
        x: Tensor,
        rows: Tensor | None = None,
        slot: Position = 0,
        start: Position = 0,
    ) -> Tensor:
        """One layer, (B, T, D) to (B, T, D).

        Without `rows` x holds whole sequences. With them B is 1, x stands at `start` of `slot`, and
        what it attends to there is kept in `rows`.
        """
        normed = self.norm(x, block, "attn_norm")  # (B, T, D)
        # Falcon-40B gives attention a norm of its own; elsewhere both branches may share one.
        inner = self.norm(x, block, "attn_norm_2") if "attn_norm_2.weight" in block else normed
        mix = self.attention if layer.kind == "attention" else self.convolution
        mixed = mix(block, layer, inner, rows, slot, start)  # (B, T, D)
        mixed = self.norm(mixed, block, "post_attention_norm")
        mixed = scaled(mixed, self.config.residual_scale)
        if self.config.parallel:
            shared = self.norm(x, block, "ffn_norm") if "ffn_norm.weight" in block else normed
            return (x + mixed + self.feed_forward(block, shared)).contiguous()
        x = (x + mixed).contiguous()  # (B, T, D)
        fed = self.feed_forward(block, self.norm(x, block, "ffn_norm"))
        fed = scaled(self.norm(fed, block, "post_ffw_norm"), self.config.residual_scale)
        return (x + fed).contiguous()

    # --- its parts ------------------------------------------------------------------------------

    def attention(
        self,
        block: Block,
        layer: Layer,
        x: Tensor,
        rows: Tensor | None,
        slot: Position,
        start: Position,
    ) -> Tensor:
        config, batch, count = self.config, int(x.shape[0]), int(x.shape[1])
        heads, keys, width = config.heads, layer.kv_heads, config.head_dim

        if "attn_qkv.weight" in block:
            q, k, v = self.project(x, block, "attn_qkv")[0].split(
                [heads * width, keys * width, keys * width], dim=-1
            )
        else:
            q, k, v = self.project(x, block, "attn_q", "attn_k", "attn_v")
        q = self.norm(q.reshape(batch, count, heads, width), block, "attn_q_norm")  # (B, T, H, C)
        k = self.norm(k.reshape(batch, count, keys, width), block, "attn_k_norm")  # (B, T, K, C)
        v = v.reshape(batch, count, keys, width).transpose(1, 2)  # (B, K, T, C)
        q, k = (
            self.rotate(part.transpose(1, 2), layer, start) for part in (q, k)
        )  # (B, H, T, C), (B, K, T, C)
        out = self.attend(layer, q, k, v, rows, slot, start)  # (B, T, HC)
        return self.project(self.norm(out, block, "attn_sub_norm"), block, "attn_output")[0]

    def attend(
        self,
        layer: Layer,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Tensor | None,
        slot: Position,
        start: Position,
    ) -> Tensor:
        """Attention of queries (B, H, T, C) to keys and values (B, K, T, C) and those in `rows`;
        (B, T, HC)."""
        config, (batch, heads, count, width) = self.config, map(int, q.shape)
        keys = layer.kv_heads
        if rows is not None:
            both = extend(rows, k.cat(v, dim=1), slot, start)
            both = both[:, :, : start + count]  # (B, 2K, L, C)
            k, v = both[:, :keys], both[:, keys:]  # (B, K, L, C)

        scale = config.attn_scale or width**-0.5
        q = (q * scale).reshape(batch, keys, heads // keys, count, width)  # (B, K, G, T, C)
        scores = q @ k.unsqueeze(2).transpose(-1, -2)  # (B, K, G, T, L)
        scores = softcap(scores, config.attn_softcap)
        behind = self.distance(count, start)  # (T, L): how far each key lies back
        if self.slopes is not None:
            # Falcon scales the bias as it does the scores.
            bias = self.slopes.reshape(1, keys, heads // keys, 1, 1) * -behind * scale
            scores = scores + bias
        seen = behind >= 0
        if layer.window:
            seen = seen & (behind < layer.window)
        weights = self.shares(seen.where(scores, float("-inf")))  # (B, K, G, T, L)
        out = (weights @ v.unsqueeze(2)).reshape(batch, heads, count, width)  # (B, H, T, C)
        return out.transpose(1, 2).reshape(batch, count, heads * width)  # (B, T, HC)

    def convolution(
        self,
        block: Block,
        layer: Layer,
        x: Tensor,
        rows: Tensor | None,
        slot: Position,
        start: Position,
    ) -> Tensor:
        """LFM2's gated short convolution: C * conv(B * x), causal, one filter a channel."""
        gate_in, gate_out, value = self.project(x, block, "shortconv.in_proj")[0].chunk(3, dim=-1)
        mixed = self.convolve(block, gate_in * value, rows, slot, start)
        if "shortconv.conv.bias" in block:
            mixed = mixed + block["shortconv.conv.bias"]
        return self.project(gate_out * mixed, block, "shortconv.out_proj")[0]

    def convolve(
        self, block: Block, past: Tensor, rows: Tensor | None, slot: Position, start: Position
    ) -> Tensor:
        """Each channel of (B, T, D) filtered over the positions up to its own."""
        taps, count = self.config.conv_taps, past.shape[1]
        if rows is not None:
            past = extend(rows, past.unsqueeze(1), slot, start)[:, 0]  # (B, positions, D)
        past = past.pad((None, (taps - 1, 0), None))  # (B, taps-1+positions, D)
        kernel = block["shortconv.conv.weight"].cast(dtypes.float32)  # (D, taps)
        return sum(
            (past[:, start + tap : start + tap + count] * kernel[:, tap] for tap in range(taps)),
            start=Tensor(0.0),
        )  # (B, T, D)

    def feed_forward(self, block: Block, x: Tensor) -> Tensor:
        inner: Tensor  # (B, T, F)
        if "ffn_gate.weight" in block:
            gate, up = self.project(x, block, "ffn_gate", "ffn_up")
            inner = self.gated(gate, up)
        else:
            (up,) = self.project(x, block, "ffn_up")  # (B, T, F), or (B, T, 2F), the gate fused
            if up.shape[-1] == 2 * self.config.hidden:
                inner = self.gated(*up.chunk(2, dim=-1))
            else:
                inner = self.activate(up)
        return self.project(self.norm(inner, block, "ffn_sub_norm"), block, "ffn_down")[0]

    # --- and theirs -----------------------------------------------------------------------------

    def project(self, x: Tensor, block: Block, *names: str) -> list[Tensor]:
        """x (B, T, in) through each of the named matrices: (B, T, out) each."""
        return [
            self.affine(y, block, name)
            for name, y in zip(
                names, self.products(x, [block[f"{n}.weight"] for n in names]), strict=True
            )
        ]

    def products(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        return [self.linear(x, weight).contiguous() for weight in weights]

    def affine(self, y: Tensor, block: Block, name: str) -> Tensor:
        if f"{name}.scale" in block:  # BitNet's ternary matrices carry one factor each
            y = y * block[f"{name}.scale"]
        return y + block[f"{name}.bias"] if f"{name}.bias" in block else y

    def norm(self, x: Tensor, block: Block, name: str) -> Tensor:
        """x scaled to unit root mean square (or variance) over its last axis; x if no such norm."""
        weight = block.get(f"{name}.weight")
        if weight is None:
            return x
        if self.config.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + self.config.norm_eps).rsqrt() * weight
        return x + block[f"{name}.bias"] if f"{name}.bias" in block else x

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.activate(gate) * up

    def activate(self, x: Tensor) -> Tensor:
        match self.config.activation:
            case "silu":
                y = x.silu()
            case "gelu":
                y = 0.5 * x * (1 + (x * 2**-0.5).erf())
            case "gelu_tanh":
                y = x.gelu()
            case "relu2":
                y = x.relu().square()
        return y.contiguous()  # a matrix product would recompute it for each of its outputs

    def shares(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def rotate(self, x: Tensor, layer: Layer, start: Position) -> Tensor:
        """Rotary positions on the leading channels of x (B, heads, T, C)."""
        if layer.rope is None:
            return x
        table = self.ropes[layer.rope][start : start + x.shape[2]]  # (T, 2, R/2)
        cos, sin = table[:, 0], table[:, 1]  # (T, R/2)
        half = self.config.ropes[layer.rope].dim // 2
        turned, rest = x[..., : 2 * half], x[..., 2 * half :]
        if self.config.rope_style == "half":
            a, b = turned[..., :half], turned[..., half:]  # (B, heads, T, R/2)
            return Tensor.cat(a * cos - b * sin, a * sin + b * cos, rest, dim=-1)
        pairs = turned.reshape(*turned.shape[:-1], half, 2)
        a, b = pairs[..., 0], pairs[..., 1]  # (B, heads, T, R/2)
        turned = Tensor.stack(a * cos - b * sin, a * sin + b * cos, dim=-1).reshape(turned.shape)
        return turned.cat(rest, dim=-1)

    def distance(self, count: int, start: Position) -> Tensor:
        """(T, L): the query's position minus the key's; negative for keys that come later."""
        first = Tensor(start) if isinstance(start, UOp) else start
        queries = Tensor.arange(count).reshape(count, 1) + first
        keys = Tensor.arange(self.positions)[: start + count].reshape(1, start + count)
        return queries - keys


def scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def softcap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), as Gemma-2 bounds its scores; x where cap is 0."""
    return (x / cap).tanh() * cap if cap else x
