"""All texts of a step without padding: one row a token, padded only where attention needs rectangles.

Captions of Tabletop have 5 to 32 tokens, so a padded batch is half padding. Here the token rows of captions, questions
and statements lie one after another; linear layers, norms and MLPs run on them alone. Values and gradients are those of
`fast` (and so of open_clip); `tests/training/test_forward.py` holds them to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.models.fused_forward import _mlp, _norm, _sdpa, _split, stream


class _Scatter(torch.autograd.Function):
    """T×C rows → R×C with the rows at `index`, zeros elsewhere."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_zeros(rows, x.shape[1]).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return gradient.index_select(0, index), None, None


class _Gather(torch.autograd.Function):
    """Rows of R×C at `index`, each of which occurs at most once (so its gradient is a copy, not a sum)."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, gradient.shape[1]).index_copy_(0, index, gradient), None


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return rows of a T×C tensor at distinct places."""
    return _Gather.apply(x, index)


@dataclass(frozen=True)
class Rectangle:
    """Where the rows of a stretch of packed tokens lie in N texts × L places.

    Attributes:
        index: int64 T, place (text·L + column) of each row; count: N; length: L.
    """

    index: Tensor
    count: int
    length: int

    @staticmethod
    def of(lengths: Tensor) -> Rectangle:
        """Return N texts of the given lengths, each from column 0 on."""
        longest = int(lengths.max()) if len(lengths) else 1
        inside = torch.arange(longest, device=lengths.device) < lengths[:, None]
        return Rectangle(inside.flatten().nonzero()[:, 0], len(lengths), longest)

    def pad(self, x: Tensor) -> Tensor:
        """Return T×C → N×L×C."""
        return _Scatter.apply(x, self.index, self.count * self.length).unflatten(0, (self.count, self.length))

    def unpad(self, x: Tensor) -> Tensor:
        """Return N×L×C → T×C."""
        return _Gather.apply(x.flatten(0, 1), self.index)


@dataclass(frozen=True)
class Texts:
    """The texts of a step and where everything lies.

    Attributes:
        ids, positions: T, token ids (class tokens: −1) and their positional embedding.
        captions: rectangle of the captions' rows, which come first: tokens, one padding, class token.
        hidden: bool N×1×1×L, keys that no caption query sees (its class token).
        short: rectangle of questions, then statements, whose rows follow.
        caption_rows: how many rows the captions have; class_rows: N, the class tokens'; word_rows: the captions' tokens
            that the decoder reads (all but the last); targets: the token that follows each of these.
        answer_rows: row of the token before each answer, counted within the stretch of short texts.
        questions: how many of the short texts are questions.
    """

    ids: Tensor
    positions: Tensor
    captions: Rectangle
    hidden: Tensor
    short: Rectangle
    caption_rows: int
    class_rows: Tensor
    words: Rectangle
    word_rows: Tensor
    targets: Tensor
    answer_columns: Tensor
    answer_rows: Tensor
    questions: int


def lay_out(
    caption_ids: Tensor,
    short: list[tuple[Tensor, Tensor]],
    *,
    pad: int,
    context: int,
) -> Texts:
    """Pack the texts of a step for a text tower with open_clip's class-token mask (see `fast.text_embedding`).

    Args:
        caption_ids: int64 N×L, padded.
        short: (ids int64 K×L, position of the answer's token K) of the questions, then of the statements.
        pad: id of padding; context: the tower's context length, where the class token stands.
    """
    device = caption_ids.device
    lengths = (caption_ids != pad).sum(dim=1)
    padded = (lengths < context).long()
    longest = int(lengths.max())
    ids = F.pad(caption_ids[:, :longest], (0, 2), value=pad)
    column = torch.arange(longest + 2, device=device).expand(len(ids), -1)
    is_class = column == (lengths + padded)[:, None]
    ids = ids.masked_fill(is_class, -1)
    captions = Rectangle.of(lengths + padded + 1)
    ids, column, is_class = (t[:, : captions.length] for t in (ids, column, is_class))
    caption_packed = ids.flatten()[captions.index]
    positions = torch.where(is_class, context, column).flatten()[captions.index]
    hidden = (is_class & (padded[:, None] == 1))[:, None, None, :]
    class_rows = (caption_packed == -1).nonzero()[:, 0]

    widest = max([int((t != pad).sum(dim=1).max()) for t, _ in short if len(t)], default=1)
    joined = [F.pad(t[:, :widest], (0, max(0, widest - t.shape[1])), value=pad) for t, _ in short]
    short_ids = torch.cat(joined) if joined else caption_ids.new_zeros(0, 1)
    # A missing question has no token; it keeps one row so that every question has its place.
    short_lengths = (short_ids != pad).sum(dim=1).clamp(min=1)
    box = Rectangle.of(short_lengths)
    answers = torch.cat([at for _, at in short]) if short else caption_ids.new_zeros(0)
    starts = short_lengths.cumsum(0) - short_lengths
    columns = torch.minimum((answers - 1).clamp(min=0), short_lengths - 1)

    caption_starts = (lengths + padded + 1).cumsum(0) - (lengths + padded + 1)
    words = Rectangle.of(lengths - 1)
    text_of_word, column_of_word = words.index // words.length, words.index % words.length
    return Texts(
        ids=torch.cat([caption_packed, short_ids[:, : box.length].flatten()[box.index]]),
        positions=torch.cat([positions, box.index % box.length]),
        captions=captions,
        hidden=hidden,
        short=box,
        caption_rows=len(caption_packed),
        class_rows=class_rows,
        words=words,
        word_rows=caption_starts[text_of_word] + column_of_word,
        targets=caption_ids[text_of_word, column_of_word + 1],
        answer_columns=columns,
        answer_rows=starts + columns,
        questions=len(short[0][0]) if short else 0,
    )


def _causal(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _attend(attention: nn.MultiheadAttention, x: Tensor, boxes: list[tuple[int, Rectangle, Tensor]]) -> Tensor:
    """Attend within packed rows; boxes: (rows, where they lie, mask True = may look), one after another."""
    heads = attention.num_heads
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    out = []
    for part, (_, box, mask) in zip(projected.split([rows for rows, _, _ in boxes]), boxes, strict=True):
        if not len(part):
            continue
        q, k, v = box.pad(part).chunk(3, dim=-1)
        attended = _sdpa(_split(q, heads), _split(k, heads), _split(v, heads), mask)
        out.append(box.unpad(attended.transpose(1, 2).flatten(2)))
    return F.linear(torch.cat(out), attention.out_proj.weight, attention.out_proj.bias)


def encode_texts(tower: nn.Module, texts: Texts) -> tuple[Tensor, Tensor]:
    """Run the text tower on a step's texts: (caption embeddings N×D, not normalised; states T×W of all rows)."""
    embedded = tower.token_embedding(texts.ids.clamp(min=0))
    embedded = torch.where((texts.ids < 0)[:, None], tower.cls_emb, embedded)
    x = stream(embedded + F.embedding(texts.positions, tower.positional_embedding))
    captions, short = texts.captions, texts.short
    boxes = [
        (texts.caption_rows, captions, _causal(captions.length, x.device) & ~texts.hidden),
        (len(x) - texts.caption_rows, short, _causal(short.length, x.device)),
    ]
    for block in tower.transformer.resblocks:
        x = x + block.ls_1(_attend(block.attn, _norm(block.ln_1, x), boxes))
        x = _mlp(block, x)
    pooled = _norm(tower.ln_final, take(x, texts.class_rows))
    projection = tower.text_projection
    if projection is not None:
        pooled = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return pooled, x


@dataclass(frozen=True)
class Memory:
    """Image tokens N×P×W and the places (query rectangle N×L) of the packed rows that look at them.

    Attributes:
        tokens: N×P×W. full: places of all rows; read: places of the caption rows and the answers alone.
    """

    tokens: Tensor
    full: Rectangle
    read: Rectangle


def memories(texts: Texts, tokens: Tensor, joined: Tensor | None, with_words: bool) -> list[tuple[Memory, int, int]]:
    """Return who looks at what: (memory, rows in `full`, rows in `read`), in the order of the decoder's rows.

    The decoder's rows are ordered: words of all captions, then questions (K an image), then statements.
    """
    images, device = len(tokens), tokens.device
    words, short = texts.words, texts.short
    asked = texts.questions // images
    text, column = short.index // short.length, short.index % short.length
    is_question = text < texts.questions

    # The places of an image: its words, then `asked` stretches, of `short.length` tokens or of the answer alone.
    width = words.length if with_words else 0
    word_places = words.index if with_words else words.index[:0]
    word_image, word_column = word_places // words.length, word_places % words.length
    question, question_column = text[is_question], column[is_question]
    number = torch.arange(texts.questions, device=device)

    def rectangle(step: int, owner: Tensor, place: Tensor) -> Rectangle:
        length = width + asked * step
        index = torch.cat([word_image * length + word_column, owner * length + width + place])
        return Rectangle(index, images, length)

    each = max(asked, 1)
    full = rectangle(short.length, question // each, (question % each) * short.length + question_column)
    read = rectangle(1, number // each, number % each)
    out = [(Memory(tokens, full, read), len(full.index), len(read.index))]
    if joined is not None:
        count = short.count - texts.questions
        places = (text[~is_question] - texts.questions) * short.length + column[~is_question]
        one = Rectangle(torch.arange(count, device=device), count, 1)
        out.append((Memory(joined, Rectangle(places, count, short.length), one), len(places), count))
    return out


def decode_texts(
    decoder: nn.Module, texts: Texts, states: Tensor, tokens: Tensor, joined: Tensor | None, with_words: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Run the decoder on a step's texts.

    Args:
        decoder: open_clip's MultimodalTransformer.
        states: T×W from `encode_texts`.
        tokens: N×P×W image tokens; joined: M×2P×W of the two-image items (None without statements).
        with_words: whether the captions are read too.

    Returns:
        states before `ln_final`: of the captions' words (None without them), in the order of `texts.targets`; and of
        the answers, questions first.
    """
    rows = texts.word_rows if with_words else texts.word_rows[:0]
    short = texts.short
    x = torch.cat([take(states, rows), states[texts.caption_rows :]])
    look = memories(texts, tokens, joined, with_words)
    words = texts.words
    boxes = [
        (len(rows), words, _causal(words.length, x.device)),
        (len(x) - len(rows), short, _causal(short.length, x.device)),
    ]
    last = len(decoder.resblocks) - 1
    for layer, (block, cross) in enumerate(zip(decoder.resblocks, decoder.cross_attn, strict=True)):
        if layer < last:
            x = _mlp(block, x + block.ls_1(_attend(block.attn, _norm(block.ln_1, x), boxes)))
        else:
            x = _last_block(block, x, boxes, texts)
        width, heads = cross.attn.embed_dim, cross.attn.num_heads
        queries = F.linear(_norm(cross.ln_1, x), cross.attn.in_proj_weight[:width], cross.attn.in_proj_bias[:width])
        out = []
        sizes = [full if layer < last else read for _, full, read in look]
        for part, (memory, _, _) in zip(queries.split(sizes), look, strict=True):
            box = memory.full if layer < last else memory.read
            if not len(part):
                continue
            seen = _norm(cross.ln_1_kv, stream(memory.tokens))
            k, v = F.linear(seen, cross.attn.in_proj_weight[width:], cross.attn.in_proj_bias[width:]).chunk(2, -1)
            attended = _sdpa(_split(box.pad(part), heads), _split(k, heads), _split(v, heads))
            out.append(box.unpad(attended.transpose(1, 2).flatten(2)))
        projection = cross.attn.out_proj
        x = _mlp(cross, x + cross.ls_1(F.linear(torch.cat(out), projection.weight, projection.bias)))
    return (x[: len(rows)] if with_words else None), x[len(rows) :]


def _last_block(block: nn.Module, x: Tensor, boxes: list[tuple[int, Rectangle, Tensor]], texts: Texts) -> Tensor:
    """Run a self-attention block whose output is wanted for the words and for the row before each answer only."""
    attention = block.attn
    width, heads = attention.embed_dim, attention.num_heads
    (word_count, words, word_mask), (_, short, _) = boxes
    normed = _norm(block.ln_1, x)
    rows = torch.cat([torch.arange(word_count, device=x.device), word_count + texts.answer_rows])
    keys = F.linear(normed, attention.in_proj_weight[width:], attention.in_proj_bias[width:])
    queries = F.linear(take(normed, rows), attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    out = []
    if word_count:
        q = words.pad(queries[:word_count])
        k, v = words.pad(keys[:word_count]).chunk(2, dim=-1)
        attended = _sdpa(_split(q, heads), _split(k, heads), _split(v, heads), word_mask)
        out.append(words.unpad(attended.transpose(1, 2).flatten(2)))
    if short.count:
        k, v = short.pad(keys[word_count:]).chunk(2, dim=-1)
        mask = torch.arange(short.length, device=x.device) <= texts.answer_columns[:, None]
        q = queries[word_count:, None]
        attended = _sdpa(_split(q, heads), _split(k, heads), _split(v, heads), mask[:, None, None, :])
        out.append(attended.transpose(1, 2).flatten(1))
    attended = F.linear(torch.cat(out), attention.out_proj.weight, attention.out_proj.bias)
    return _mlp(block, take(x, rows) + block.ls_1(attended))
