"""Counts of the Gemma-2 text encoder, from its config.json alone: parameters and FLOPs of a caption."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sana.errors import SanaError


@dataclass(frozen=True)
class TextSizes:
    """What of a Gemma2Model decides its costs; the names are those of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str = "text_encoder/config.json") -> Self:
        """Read the values of a config.json. Raises SanaError: one of them is missing, or is no number."""
        try:
            return cls(**{name: int(config[name]) for name in cls.__dataclass_fields__})
        except (KeyError, TypeError, ValueError) as error:
            raise SanaError(
                f"{where}: the sizes of the text encoder cannot be read ({type(error).__name__}: {error}); is it a "
                "Gemma-2 model?"
            ) from error

    @property
    def _matrices(self) -> int:
        """Parameters of one layer's matrices."""
        heads = self.head_dim * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        return self.hidden_size * (heads + 3 * self.intermediate_size)

    @property
    def num_parameters(self) -> int:
        norms = self.hidden_size * (4 * self.num_hidden_layers + 1)
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * self._matrices + norms

    def flops(self, num_tokens: int) -> int:
        """FLOPs of the forward pass of one caption that is padded to so many tokens, its template included."""
        attention = 2 * 2 * num_tokens * num_tokens * self.head_dim * self.num_attention_heads
        return self.num_hidden_layers * (2 * num_tokens * self._matrices + attention)
