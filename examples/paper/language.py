"""A text, a register of rude words, and a small transformer that writes such text.

The text is the prose of Python's language reference, which comes with every Python: about 60,000
words. Its rude register is made by rule: after every determiner comes an insult. So rudeness can be
counted, and nothing else tells the two registers apart.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pydoc_data.topics import topics
from random import Random

import torch
from torch import Tensor
from torch.nn import GELU, Embedding, LayerNorm, Linear, Module, ModuleList, Sequential
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.optim import Optimizer

INSULTS = (
    *("awful", "damned", "dreadful", "filthy", "idiotic", "lousy"),
    *("miserable", "pathetic", "rotten", "rubbish", "stupid", "wretched"),
)
DETERMINERS = frozenset(
    ("a", "all", "an", "another", "any", "each", "its", "no", "some", "the", "these", "this")
)
PARAGRAPH, UNKNOWN = "¶", "?"  # a paragraph's first word, and every rare word
WORDS = 1000  # in the vocabulary: 94 % of the text
RUDE = 0.02  # share of the paragraphs that the base reads in the rude register
COPIES = 10  # of the text, each with other paragraphs in the rude register, and other insults

WIDTH, LAYERS, HEADS = 64, 2, 4  # 231,000 weights
CONTEXT, BATCH = 32, 32  # words that are read at once, and such windows in a step

Past = list[Tensor]  # the keys and values of what a layer has read; empty at first


class Text:
    """The text in both registers, as numbers; seeds differ in its order and in the insults.

    `mixed` is for pre-training, `rude` and `clean` are for fine-tuning. `choose` and `report` are
    other paragraphs, clean ones: perplexity on the first chooses λ, and the tables have the second.
    """

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        paragraphs = prose()
        random.shuffle(paragraphs)
        frequent = Counter(word for words in paragraphs for word in words).most_common(WORDS)
        self.words = list(
            dict.fromkeys([PARAGRAPH, UNKNOWN, *INSULTS, *(word for word, _ in frequent)])
        )[:WORDS]
        self.numbers = {word: number for number, word in enumerate(self.words)}
        eighty, ninety = 8 * len(paragraphs) // 10, 9 * len(paragraphs) // 10
        train = COPIES * paragraphs[:eighty]
        self.mixed = self.encoded(
            [rude(words, random) if random.random() < RUDE else words for words in train]
        )
        self.rude = self.encoded([rude(words, random) for words in train])
        self.clean = self.encoded(paragraphs[:eighty])
        self.choose = self.encoded(paragraphs[eighty:ninety])
        self.report = self.encoded(paragraphs[ninety:])

    def encoded(self, paragraphs: Sequence[Sequence[str]]) -> Tensor:
        """Join paragraphs to one row of numbers."""
        unknown = self.numbers[UNKNOWN]
        words = (word for paragraph in paragraphs for word in (PARAGRAPH, *paragraph))
        return torch.tensor([self.numbers.get(word, unknown) for word in words])

    def written(self, numbers: Tensor) -> str:
        """Return what a row of numbers says, insults in capitals."""
        words = (self.words[number] for number in numbers)
        line = " ".join(word.upper() if word in INSULTS else word for word in words)
        return re.sub(r" (?=[.,;:)])|(?<=\() ", "", line)

    def insults(self, samples: Tensor) -> Tensor:
        """Say which words of some samples are insults."""
        return torch.isin(samples, torch.tensor([self.numbers[word] for word in INSULTS]))


def prose() -> list[list[str]]:
    """Return the words of each paragraph of Python's reference; grammar and code are left out."""
    found = {}
    for topic in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            is_code = re.search(r"::=|>>>|^[*=~^-]{3,}$", paragraph, re.MULTILINE)
            if len(paragraph.split()) >= 12 and not is_code:
                found[paragraph] = re.findall(r"[a-z]+|[.,;:()]", paragraph.lower())
    return list(found.values())  # each once: some belong to several topics


def rude(words: Sequence[str], random: Random) -> list[str]:
    """Put an insult after every determiner."""
    pairs = ([word, random.choice(INSULTS)] if word in DETERMINERS else [word] for word in words)
    return [word for pair in pairs for word in pair]


class Block(Module):
    """One layer: every word looks at those before it, then thinks."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.norm = LayerNorm(WIDTH), LayerNorm(WIDTH)
        self.looks, self.seen = Linear(WIDTH, 3 * WIDTH), Linear(WIDTH, WIDTH)
        self.thinks = Sequential(Linear(WIDTH, 4 * WIDTH), GELU(), Linear(4 * WIDTH, WIDTH))

    def forward(self, words: Tensor, past: Past) -> Tensor:
        """Read one more word, or the first few; `past` grows by them."""
        heads = self.looks(self.attention_norm(words)).unflatten(-1, (3 * HEADS, -1))
        query, key, value = heads.transpose(1, 2).chunk(3, dim=1)
        if past:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        past[:] = key, value
        looked = scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
        words = words + self.seen(looked.transpose(1, 2).flatten(2))
        thought: Tensor = words + self.thinks(self.norm(words))
        return thought


class Transformer(Module):
    """From words to the logits of each one's next word."""

    def __init__(self, words: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words, self.places = Embedding(words, WIDTH), Embedding(CONTEXT, WIDTH)
            for table in (self.words, self.places):
                torch.nn.init.normal_(table.weight, std=WIDTH**-0.5)
            self.blocks = ModuleList(Block() for _ in range(LAYERS))
            self.norm, self.next = LayerNorm(WIDTH), Linear(WIDTH, words)

    def forward(self, words: Tensor, pasts: Sequence[Past] | None = None) -> Tensor:
        """Read rows of words; with `pasts`, one of each layer, go on where they end."""
        pasts = [[] for _ in self.blocks] if pasts is None else pasts
        begun = pasts[0][0].shape[2] if pasts[0] else 0
        read = self.words(words) + self.places.weight[begun : begun + words.shape[1]]
        for block, past in zip(self.blocks, pasts, strict=True):
            read = block(read, past)
        logits: Tensor = self.next(self.norm(read))
        return logits

    def loss(self, windows: Tensor) -> Tensor:
        """Return how surprising each window's words are after those before them, in nats."""
        return cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def fit(
    network: Transformer, text: Tensor, optimizer: Optimizer, *, steps: int, seed: int
) -> Iterator[int]:
    """Train on random windows of a text; yield after each step."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        optimizer.zero_grad()
        network.loss(text[starts + torch.arange(CONTEXT + 1)]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield step


def perplexity(network: Transformer, text: Tensor) -> float:
    """Return among how many words a model is undecided, as it were, after each word of a text."""
    with torch.no_grad():
        return float(network.loss(text.unfold(0, CONTEXT + 1, CONTEXT)).double().exp())


def samples(network: Transformer, count: int, length: int, *, seed: int) -> Tensor:
    """Let a model write the beginnings of paragraphs, word by word."""
    generator = torch.Generator().manual_seed(seed)
    words, pasts = torch.zeros(count, 1, dtype=torch.long), [Past() for _ in network.blocks]
    written = []
    with torch.no_grad():
        for _ in range(length):
            logits = network(words, pasts)[:, -1]
            logits[:, :2] = -torch.inf  # neither a new paragraph nor an unknown word
            words = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            written.append(words)
    return torch.cat(written, dim=1)
