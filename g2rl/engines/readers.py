"""How rows read one more token behind what they have read before.

`ModuleReader` asks transformers, and works for every architecture. `LeanReader` calls the modules
of a plain decoder itself: with whole rows it gives the same bits in less time, with shared prompts
the same sums in another order, and memory for one prompt instead of one a row.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from g2rl.engines.caches import select_rows, with_room
from g2rl.engines.lean_decoder import (
    Attention,
    LeanDecoder,
    WholeRows,
    is_plain,
    keeps_no_tensor,
)
from g2rl.engines.shared_prompts import SharedPrompts
from g2rl.policy.anatomy import decoder_of


class Reader(Protocol):
    """Reads the next token of B rows; see the head of the file.

    Attributes:
        leaves_no_tensor: whether reading is known to leave no tensor behind in the model. Only then
            it may be done in torch's inference mode, whose tensors no training can use.
    """

    leaves_no_tensor: bool

    def read(self, tokens_B: Tensor, positions_B1: Tensor) -> Tensor:
        """Last hidden states (B, D) behind one more token a row.

        Args:
            tokens_B: the tokens.
            positions_B1: their positions, from 0.
        """
        ...

    def keep(self, index: Tensor) -> None:
        """Keep the rows that an index names, in its order, and forget the others.

        Args:
            index: row numbers, int64.
        """
        ...


class ModuleReader:
    """Reads with forwards of transformers, which may keep tensors for later calls.

    Args:
        decoder: the model without its head.
        cache: of transformers, one row a row; None if nothing has been read.
        mask_BL: 0 on the padding and 1 on the tokens that have been read, and on the next one.
    """

    leaves_no_tensor = False

    def __init__(self, decoder: nn.Module, cache: Any, mask_BL: Tensor) -> None:
        self.decoder, self.cache, self.mask_BL = decoder, cache, mask_BL

    def read(self, tokens_B: Tensor, positions_B1: Tensor) -> Tensor:
        """See `Reader.read`."""
        output = self.decoder(
            input_ids=tokens_B.unsqueeze(1),
            attention_mask=self.mask_BL,
            position_ids=positions_B1,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values

        # every row grows by one token
        self.mask_BL = nn.functional.pad(self.mask_BL, (0, 1), value=1)
        hidden_BD: Tensor = output.last_hidden_state[:, -1]
        return hidden_BD

    def keep(self, index: Tensor) -> None:
        """See `Reader.keep`."""
        select_rows(self.cache, index)
        self.mask_BL = self.mask_BL[index]


class LeanReader:
    """Reads with a decoder's own modules.

    Args:
        model: one whose decoder is plain.
        attention: keys and values of the rows.
    """

    def __init__(self, model: nn.Module, attention: Attention) -> None:
        self.decoder, self.attention = LeanDecoder(decoder_of(model)), attention
        self.leaves_no_tensor = keeps_no_tensor(model)

    def read(self, tokens_B: Tensor, positions_B1: Tensor) -> Tensor:
        """See `Reader.read`."""
        return self.decoder.read(tokens_B, positions_B1, self.attention)

    def keep(self, index: Tensor) -> None:
        """See `Reader.keep`."""
        self.attention.keep(index)


def reader_of(
    model: nn.Module, cache: Any, mask_PL: Tensor, prompt_of_row_B: Tensor, may_share: bool
) -> Reader:
    """The fastest reader that a model allows, behind prompts that have been read.

    Args:
        model: a causal LM of transformers.
        cache: behind all tokens of P prompts but the last; None where that is none. It is used up.
        mask_PL: 0 on the padding and 1 on the tokens of the prompts.
        prompt_of_row_B: number of each row's prompt.
        may_share: whether rows may share what is kept of their prompts, if several have the same.
    """
    decoder = decoder_of(model)
    if cache is None:
        return ModuleReader(decoder, None, mask_PL[prompt_of_row_B])

    # rows in the order of the prompts, each once, have nothing to share
    can_be_lean = is_plain(decoder)
    if can_be_lean and may_share and len(prompt_of_row_B) > len(mask_PL):
        return LeanReader(model, SharedPrompts(cache, mask_PL[:, :-1], prompt_of_row_B))

    # every row gets the keys and values of its prompt
    select_rows(cache, prompt_of_row_B)
    with_room(cache)
    mask_BL = mask_PL[prompt_of_row_B]
    if can_be_lean and WholeRows.can_hold(cache):
        return LeanReader(model, WholeRows(cache, mask_BL))
    return ModuleReader(decoder, cache, mask_BL)
