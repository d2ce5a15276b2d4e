"""Factors to the two files of a PEFT adapter: what is in them, not yet where they go.

The scale is folded into the factors: every module has `alpha` equal to its rank, so PEFT's scaling
is 1 whatever the ranks are.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from taskalg.adapters.modules import Module
from taskalg.checkpoints.adapter_config import CONFIG_NAME
from taskalg.output.public import hub_id, is_origin
from taskalg.output.sidefiles import SideFile

_TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM"}
_TASKS |= {"ForConditionalGeneration": "SEQ_2_SEQ_LM"}


def config_file(
    ranks: Mapping[Module, int], base: str | None, architectures: Sequence[str]
) -> SideFile:
    """Return the config of an adapter.

    Args:
        ranks: of each module it changes.
        base: what may be said of the model it was taken from; on the Hub, with its commit.
        architectures: the model's, as its own config lists them.
    """
    usual = Counter(ranks.values()).most_common(1)[0][0]
    # PEFT matches a pattern with the end of a path, unless the pattern says that it is all of it
    patterns = {f"^{m.path}": rank for m, rank in ranks.items() if rank != usual}
    known = (task for end, task in _TASKS.items() for name in architectures if name.endswith(end))
    config = {
        "alpha_pattern": patterns,
        "base_model_name_or_path": None if base is None else hub_id(base),
        "bias": "none",
        "fan_in_fan_out": any(m.is_turned and not m.is_embedding for m in ranks),
        "inference_mode": True,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": usual,
        "rank_pattern": patterns,
        "revision": base.partition("@")[2].partition("/")[0] if base and is_origin(base) else None,
        "target_modules": sorted(module.path for module in ranks),
        "task_type": next(known, None),
    }
    return SideFile(CONFIG_NAME, (json.dumps(config, indent=2) + "\n").encode())
