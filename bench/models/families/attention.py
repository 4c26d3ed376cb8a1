"""How the attention to text tokens is read off one layer, whatever processor it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, cat, nn, promote_types


@dataclass(frozen=True)
class Call:
    """What one call of a layer is given: hidden states and text states, both (n, tokens, d), and
    what else its queries and keys are made of."""

    hidden: Tensor | None
    context: Tensor | None
    tokens: int = 0  # how many text states there are
    rotary: tuple[Tensor, Tensor] | None = None  # cosines and sines, (tokens + pixels, d) each
    time: Tensor | None = None  # the embedding of the timestep, (n, d)
    mask: Tensor | None = None  # what is added to the scores of text, (n, tokens)

    def first(self, rows: int | None) -> Call:
        """The first rows of it."""
        hidden, context = (x[:rows] for x in (self.hidden, self.context))
        time, mask = (None if x is None else x[:rows] for x in (self.time, self.mask))
        return replace(self, hidden=hidden, context=context, time=time, mask=mask)

    @property
    def light(self) -> Call:
        """The call without its states, which are large."""
        return replace(self, hidden=None, context=None, time=None)


@dataclass(frozen=True)
class Projected:
    """Queries and keys of one call, each (n, pixels or tokens, heads * d), as the softmax takes
    them: behind their norms and rotations."""

    query: Tensor  # of the picture
    key: Tensor  # of text
    beside: Tensor | None = None  # keys of the picture, in joint attention
    asked: Tensor | None = None  # queries of text, in joint attention, where they are asked for
    mask: Tensor | None = None  # what is added to the scores, (n, tokens)


class Reading(ABC):
    """How to read one layer."""

    heads: int
    joint: bool = False  # whether keys of the picture are in the same softmax
    noted: bool = False  # whether `projected` needs the call even where `watched` ran

    @abstractmethod
    def watched(self, text: bool) -> tuple[nn.Module, ...]:
        """The modules whose outputs make queries and keys; with `text` the queries of text too."""

    @abstractmethod
    def call(self, args: tuple, kwargs: dict) -> Call:
        """What a call of the layer is given."""

    @abstractmethod
    def again(self, call: Call, text: bool) -> tuple[Tensor, ...]:
        """What the watched modules give in this call, computed once more."""

    @abstractmethod
    def projected(self, outputs: tuple[Tensor, ...], call: Call | None) -> Projected:
        """Queries and keys, from what the watched modules gave."""


@dataclass(frozen=True)
class TextAttention(Reading):
    """A layer of cross-attention: its projections to queries and to keys of text, its heads, and
    `inputs(args, kwargs) -> (what becomes queries, what becomes keys)` of one call. `masked`: the
    layer is called with the keyword `attention_mask`, (n, 1, tokens), which is added to the
    scores."""

    query: nn.Module
    key: nn.Module
    heads: int
    inputs: Callable[[tuple, dict], tuple[Tensor, Tensor]]
    masked: bool = False

    @property
    def noted(self) -> bool:
        return self.masked

    def watched(self, text: bool) -> tuple[nn.Module, ...]:
        return self.query, self.key

    def call(self, args: tuple, kwargs: dict) -> Call:
        hidden, context = self.inputs(args, kwargs)
        mask = kwargs.get("attention_mask") if self.masked else None
        mask = None if mask is None else mask.detach()[:, 0]
        return Call(hidden, context, context.shape[1], mask=mask)

    def again(self, call: Call, text: bool) -> tuple[Tensor, ...]:
        return self.query(call.hidden), self.key(call.context)

    def projected(self, outputs: tuple[Tensor, ...], call: Call | None) -> Projected:
        return Projected(*outputs, mask=call.mask if call else None)


@dataclass(frozen=True)
class Stream:
    """The projections of one stream of tokens to queries and keys, and the norms behind them."""

    query: nn.Module
    key: nn.Module
    norm_query: nn.Module | None
    norm_key: nn.Module | None

    @property
    def watched(self) -> tuple[nn.Module, nn.Module]:
        return self.norm_query or self.query, self.norm_key or self.key

    def again(self, states: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Queries and keys of states (n, tokens, d): (n, tokens, heads, d) each."""
        parts = ((self.query, self.norm_query), (self.key, self.norm_key))
        given = [(p(states).unflatten(-1, (heads, -1)), norm) for p, norm in parts]
        return tuple(x if norm is None else norm(x) for x, norm in given)


@dataclass(frozen=True)
class JointAttention(Reading):
    """A layer of joint attention with projections of their own for the tokens of the picture and of
    text. `heads_first`: its norms are given (n, heads, tokens, d), not (n, tokens, heads, d)."""

    heads: int
    picture: Stream
    text: Stream
    heads_first: bool
    joint = True
    noted = True

    def watched(self, text: bool) -> tuple[nn.Module, ...]:
        (asked, key), picture = self.text.watched, self.picture.watched
        return (*picture, key, asked) if text else (*picture, key)

    def call(self, args: tuple, kwargs: dict) -> Call:
        names = ("hidden_states", "encoder_hidden_states")
        hidden, context = (*args, *(kwargs[n] for n in names[len(args) :]))[:2]
        return Call(hidden, context, context.shape[1], kwargs.get("image_rotary_emb"))

    def again(self, call: Call, text: bool) -> tuple[Tensor, ...]:
        asked, key = self.text.again(call.context, self.heads)
        picture = self.picture.again(call.hidden, self.heads)
        found = (*picture, key, asked) if text else (*picture, key)
        return tuple(x.transpose(1, 2) for x in found) if self.heads_first else found

    def projected(self, outputs: tuple[Tensor, ...], call: Call) -> Projected:
        def turned(x: Tensor, of_text: bool) -> Tensor:
            if x.ndim == 3:
                x = x.unflatten(-1, (self.heads, -1))
            elif self.heads_first:
                x = x.transpose(1, 2)
            at = slice(None, call.tokens) if of_text else slice(call.tokens, None)
            return rotated(x, call.rotary, at).flatten(2)

        found = [turned(x, i > 1) for i, x in enumerate(outputs)]
        # in half precision, the side that trains is float32 behind its norm, and the other is not
        kind = reduce(promote_types, (x.dtype for x in found))
        query, beside, key, *asked = (x.to(kind) for x in found)
        return Projected(query, key, beside, *asked)


@dataclass(frozen=True)
class SingleStream(Reading):
    """A block that first puts text before the picture and has one stream for both: its `stream`,
    and the norm that its states and the embedding of the timestep go through. What is read is the
    block, as its attention is not told how many of its tokens are text."""

    heads: int
    stream: Stream
    norm: nn.Module
    joint = True
    noted = True

    def watched(self, text: bool) -> tuple[nn.Module, ...]:
        return self.stream.watched

    def call(self, args: tuple, kwargs: dict) -> Call:
        names = ("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb")
        given = (*args, *(kwargs[n] for n in names[len(args) :]))
        hidden, context, time, rotary = given[:4]
        return Call(hidden, context, context.shape[1], rotary, time)

    def again(self, call: Call, text: bool) -> tuple[Tensor, ...]:
        states, _ = self.norm(cat([call.context, call.hidden], 1), emb=call.time)
        return self.stream.again(states, self.heads)

    def projected(self, outputs: tuple[Tensor, ...], call: Call) -> Projected:
        query, key = (rotated(x, call.rotary, slice(None)).flatten(2) for x in outputs)
        n = call.tokens
        return Projected(query[:, n:], key[:, :n], key[:, n:], query[:, :n])


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor] | None, at: slice) -> Tensor:
    """Queries or keys (n, tokens, heads, d), rotated by the angles of the places `at`."""
    if rotary is None:
        return x
    return apply_rotary_emb(x, tuple(side[at] for side in rotary), sequence_dim=1)
