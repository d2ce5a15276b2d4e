"""A PEFT adapter's adapter_config.json to what it says about factors, or the reason to refuse it.

What an option means is what PEFT 0.21 does with it when it merges. An option that makes the change
of a weight something else than a product of two stored factors is refused by its name: reading the
factors all the same would be silently wrong. Unknown options that are set become a note. The file
comes from a stranger, so every type is checked, and a pattern is matched only when its form bounds
the time that takes; rejected: a matcher of our own, for patterns that nobody writes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskalg.checkpoints.index import read_json
from taskalg.errors import CheckpointError, listed, quoted

CONFIG_NAME = "adapter_config.json"
MERGE = "merge it into its base with PEFT's merge_and_unload(), save that, and give it as a --task"
_CONVERT = "save it again with save_pretrained's path_initial_model_for_weight_conversion"

# Options that change what the factors mean, with the reason not to read them.
_REFUSED = {
    "use_dora": "DoRA divides by the norm of the base plus the product, which is not linear in it",
    "kasa_config": "KaSA takes singular components out of its base, so it changes the base too",
    "arrow_config": "Arrow chooses among adapters for every token, which no change of weights does",
    "alora_invocation_tokens": "it acts only after certain tokens, which no change of weights does",
    "use_qalora": "QA-LoRA averages groups of inputs, in the layout of a quantized base",
    "use_bdlora": "BD-LoRA stores the blocks of block-diagonal factors",
    "monteclora_config": "MonteCLoRA stores samplers beside its factors",
    "layer_replication": "it repeats layers, so its tensors are not those of the base's file",
    "target_parameters": "it adapts parameters by name, and the file does not say which is which",
    "trainable_token_indices": "it replaces single rows of an embedding",
    "ensure_weight_tying": "it holds one product twice, for tensors that the base stores once",
}
_UNMERGEABLE = {"alora_invocation_tokens", "arrow_config"}
# Ways to start the training. These change the base, and the adapter is taken against the result.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_KEEPS_BASE = ("gaussian", "eva", "orthogonal", "mica")
# PEFT's other options: those read here, and those that do not change what stored factors mean.
_OTHERS = {
    *("alpha_pattern", "base_model_name_or_path", "bias", "fan_in_fan_out", "init_lora_weights"),
    *("lora_alpha", "modules_to_save", "peft_type", "r", "rank_pattern", "task_type", "use_rslora"),
    *("auto_mapping", "corda_config", "eva_config", "exclude_modules", "inference_mode"),
    *("layers_pattern", "layers_to_transform", "loftq_config", "lora_bias", "lora_dropout"),
    *("lora_ga_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size"),
    *("revision", "runtime_config", "target_modules", "velora_config"),
}
KNOWN = _REFUSED.keys() | _OTHERS
_INPUTS = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"}
_HEADS = {  # what PEFT trains whole for a task, in files that do not say so
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
_QUANTIZED = re.compile(r"(?i)bnb|[48][-_]?bit|int[48]\b|gptq|awq|nf4|fp8")

LARGEST_RANK = 1 << 24  # beyond any tensor; keeps arithmetic on it small
_LONGEST = 400  # characters of a pattern, or of a name one is matched with
_MOST_WORK = 3e9  # backtracking steps of all matches, by a bound; one takes about 10 ns
_ATOM = r"(?:\\[dw.\-_]|\[\^?[\w.\-]+\]|[\w.\-])"
_COUNT = r"(?:[*+?]|\{\d,?\d?\})"
_SIMPLE = re.compile(rf"(?:{_ATOM}{_COUNT}?|[\^$|(]|\(\?:|\)\??(?![*+?{{]))*")


@dataclass(frozen=True)
class AdapterConfig:
    """What a LoRA adapter's config says about the tensors beside it."""

    path: str  # of the adapter, as the user gave it
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]  # by a pattern for modules; the first that matches counts
    alpha_pattern: Mapping[str, float]
    patterns: Mapping[str, "Pattern"]  # of both, by how they are written
    fan_in_fan_out: bool  # linear weights are `(in, out)`; the last adapted module decided it
    bias: str  # which biases are stored whole: "none", "all", "lora_only"
    whole: tuple[str, ...]  # ends of the names of modules that are stored whole
    notes: tuple[str, ...]  # what a user should know

    def rank_of(self, module: str) -> int:
        """Return the rank that a module's factors must have."""
        return self.rank_pattern.get(self._key(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """Return what a module's product is multiplied with, the number that PEFT computes."""
        alpha = self.alpha_pattern.get(self._key(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def _key(self, table: Mapping[str, float], module: str) -> str:
        return next((key for key in table if self.patterns[key].matches(module)), module)


@dataclass(frozen=True)
class Pattern:
    """What stands for the names of modules, matched with their ends as PEFT does."""

    compiled: re.Pattern[str]
    tail: str  # what those names end with, as far as the pattern says; ten times faster to see

    @classmethod
    def of(cls, text: str) -> "Pattern":
        r"""Compile a pattern of a simple form.

        >>> [Pattern.of(text).tail for text in ("a.b_c", r"a\.[0-9]+bc", r"a\d", "a|b")]
        ['b_c', 'bc', '', '']
        """
        end = re.search(r"(?:\\\w)?(\w*)$", text)
        assert end is not None
        return cls(re.compile(rf"(.*\.)?({text})$"), "" if "|" in text else end[1])

    def matches(self, module: str) -> bool:
        """Tell whether it stands for a module."""
        return module.endswith(self.tail) and self.compiled.match(module) is not None


def read_config(folder: Path, path: str) -> AdapterConfig:
    """Read an adapter's config.

    Raises:
        CheckpointError: it is damaged, or the adapter is none whose weights can be read.
    """
    return _Reader(read_json(folder / CONFIG_NAME), path).config()


def check_work(config: AdapterConfig, modules: Sequence[str]) -> None:
    """Refuse patterns that could take very long to match with the names of modules.

    Raises:
        CheckpointError: they could.
    """
    if not config.patterns:
        return
    longest = max(map(len, modules), default=0)
    work = sum(_work(pattern, longest) for pattern in config.patterns) * len(modules)
    if longest > _LONGEST or work > _MOST_WORK:
        raise CheckpointError(
            f"the patterns in {CONFIG_NAME} of {quoted(config.path)} could take hours to match",
            note=f"{len(config.patterns)} of them meet {len(modules):,} names",
            help="write the names of modules in their place",
        )


def _work(pattern: str, length: int) -> float:
    """Bound the ways in which a simple pattern can match a prefix of a name."""
    ways = float(length)  # of what PEFT allows before the pattern
    for count in re.findall(rf"(?:{_ATOM}|\))({_COUNT})", pattern):
        ways *= 2 if count == "?" else length
    for group in re.split(r"[()]", pattern):
        ways *= 1 + group.count("|")
    return ways


class _Reader:
    """Takes options out of a config, each with its type."""

    def __init__(self, found: Mapping[str, Any], path: str) -> None:
        self.found, self.path = found, path

    def config(self) -> AdapterConfig:
        self._refuse_others()
        ranks = self._table("rank_pattern", self._rank)
        alphas = self._table("alpha_pattern", self._alpha)
        modules = self._names("modules_to_save")
        bias = self._text("bias") or "none"
        if bias not in ("none", "all", "lora_only"):
            raise self._wrong("bias", bias, "is not 'none', 'all' or 'lora_only'")
        return AdapterConfig(
            self.path,
            self._rank("r", self.found.get("r", 8)),
            self._alpha("lora_alpha", self.found.get("lora_alpha", 8)),
            self._flag("use_rslora"),
            ranks,
            alphas,
            {pattern: self._compiled(pattern) for pattern in {**ranks, **alphas}},
            self._flag("fan_in_fan_out"),
            bias,
            (*modules, *_HEADS.get(self._text("task_type") or "", ())),
            self._notes(),
        )

    def _refuse_others(self) -> None:
        kind = self._text("peft_type")
        if kind != "LORA":
            raise CheckpointError(
                f"{quoted(self.path)} is an adapter, but no LoRA adapter",
                note=f"its peft_type is {'not stated' if kind is None else quoted(kind)}"
                + ("; such adapters change the input, not weights" if kind in _INPUTS else ""),
                help=None if kind in _INPUTS else MERGE,
            )
        for option, reason in _REFUSED.items():
            if self.found.get(option):
                raise self._refusal(option, reason, None if option in _UNMERGEABLE else MERGE)
        start = self.found.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
            reason = f"{start} changes the base before training; the adapter belongs to the result"
            raise self._refusal("init_lora_weights", reason, _CONVERT)
        if isinstance(start, str) and start.lower() not in _KEEPS_BASE:
            raise self._wrong("init_lora_weights", start, "is no way to start that is known here")

    def _refusal(self, option: str, reason: str, help: str | None) -> CheckpointError:
        return CheckpointError(
            f"{quoted(self.path)} is an adapter with {option}, which is no task vector",
            note=reason,
            help=help,
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        base = self._text("base_model_name_or_path") or ""
        if _QUANTIZED.search(base):
            notes.append(f"it was trained on {quoted(base)}, which is quantized")
        unknown = [key for key, value in self.found.items() if value and key not in KNOWN]
        if unknown:
            names = listed([quoted(key) for key in unknown])
            notes.append(f"its config sets {names}, unknown here and not looked at")
        return tuple(notes)

    def _flag(self, key: str) -> bool:
        value = self.found.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, value, "is not true or false")
        return bool(value)

    def _text(self, key: str) -> str | None:
        value = self.found.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "is not a string")
        return value

    def _names(self, key: str) -> list[str]:
        value = self.found.get(key) or []
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise self._wrong(key, value, "is not a list of names")
        return value

    def _rank(self, key: str, value: Any) -> int:
        if type(value) is not int or not 0 < value <= LARGEST_RANK:
            raise self._wrong(key, value, "is not a rank")
        return value

    def _alpha(self, key: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < 2**53:
            raise self._wrong(key, value, "is not a number of moderate size")
        return float(value)

    def _table(self, key: str, convert: Any) -> dict[str, Any]:
        value = self.found.get(key) or {}
        if not isinstance(value, dict):
            raise self._wrong(key, value, "is not an object")
        return {pattern: convert(key, number) for pattern, number in value.items()}

    def _compiled(self, pattern: str) -> Pattern:
        if len(pattern) > _LONGEST or not _SIMPLE.fullmatch(pattern):
            raise self._wrong("a pattern", pattern, "is too intricate to be matched safely")
        try:
            return Pattern.of(pattern)
        except re.error as error:
            raise self._wrong("a pattern", pattern, f"is no regular expression: {error}") from None

    def _wrong(self, key: str, value: object, words: str) -> CheckpointError:
        return CheckpointError(
            f"{CONFIG_NAME} of {quoted(self.path)} is damaged or hostile: {key} {words}",
            note=f"found {quoted(str(value)[:60])}",
        )
