"""A transformer encoder, as in BERT (Devlin et al. 2019), after the embedding."""

from __future__ import annotations

from math import sqrt

from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention without a mask, of plain products: `[N, tokens, width] -> same`."""

    def __init__(self, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.shape = (-1, tokens, heads, width // heads)
        self.scale = 1 / sqrt(width // heads)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            linear(x).reshape(self.shape).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(2, 3) * self.scale).softmax(dim=-1)
        _, tokens, heads, size = self.shape
        return self.out((weights @ value).transpose(1, 2).reshape(-1, tokens, heads * size))


class Layer(nn.Module):
    """Attention and a perceptron, each with its skip; norms after the additions, or before."""

    def __init__(self, tokens: int, width: int, heads: int, prenorm: bool) -> None:
        super().__init__()
        self.attention = Attention(tokens, width, heads)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.prenorm = prenorm

    def forward(self, x: Tensor) -> Tensor:
        if self.prenorm:
            x = x + self.attention(self.norm1(x))
            return x + self.perceptron(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.perceptron(x))


class Encoder(nn.Sequential):
    """BERT-base by default, `64 heads` wide: `[N, tokens, 768] -> same`.

    `width` scales the number of heads. The number of tokens is fixed, so that the exported
    graph reshapes to constants. With `prenorm`, a norm closes the stack.
    """

    def __init__(
        self,
        layers: int = 12,
        tokens: int = 128,
        heads: int = 12,
        width: float = 1.0,
        prenorm: bool = False,
    ) -> None:
        super().__init__()
        heads = max(1, round(heads * width))
        self.tokens, self.width = tokens, 64 * heads
        for index in range(layers):
            self.add_module(f"layer{index + 1}", Layer(tokens, self.width, heads, prenorm))
        if prenorm:
            self.add_module("norm", nn.LayerNorm(self.width, eps=1e-12))
